#!/usr/bin/perl
# A job that says how it goes (docs/status.md): thumbs.pl FILE…   It runs without cronq as well.
use strict;
use warnings;
use File::Basename;

my $status;
if (defined $ENV{CRONQ_STATUS_FD}) {
    open($status, '>&=', $ENV{CRONQ_STATUS_FD}) or die "descriptor $ENV{CRONQ_STATUS_FD}: $!";
    $status->autoflush(1);
}
sub say_so { print {$status} "@_\n" if $status }

my $done  = $ENV{CRONQ_CURSOR} // 0;
my $total = @ARGV;
for my $file (@ARGV[$done .. $#ARGV]) {
    say_so('status', basename($file));
    if (-s $file) {
        open(my $in,  '<:raw', $file)         or die "$file: $!";
        open(my $out, '>:raw', "$file.thumb") or die "$file.thumb: $!";
        read($in, my $head, 100);
        print {$out} $head;
        close($out) or die "$file.thumb: $!";
    } else {
        say_so("warning $file is empty");
    }
    $done++;
    say_so("progress $done/$total");
    say_so("cursor $done");
}
say_so("metric files=$total");
say_so("result $done thumbnails");
