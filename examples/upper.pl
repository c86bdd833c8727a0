#!/usr/bin/perl
# A pool in another language (docs/warm-workers.md): one process, one job after another.
#
#     [tasks.upper]
#     command = ["/usr/local/lib/upper.pl"]
#     mode = "pool"
use strict;
use warnings;
use JSON::PP;

my $json = JSON::PP->new->canonical->utf8;
open(my $line, "+<&=", $ENV{CRONQ_POOL_FD}) or die "run me as a pool: $!\n";
select((select($line), $| = 1)[0]);
$| = 1;    # what is printed must be out before the answer is

my $jobs = 0;
while (defined(my $text = <$line>)) {
    my $job = $json->decode($text);
    $jobs++;
    print uc(join(" ", @{ $job->{args} })), "\n";
    syswrite($line, $json->encode({ status => "job $jobs of this process" }) . "\n");
    syswrite($line, $json->encode({ id => $job->{id}, exit => 0, result => $jobs }) . "\n");
}
