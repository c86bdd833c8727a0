"""cronq: the job queue and cron of one Linux server, made of files."""

__version__ = "0.1.0"
