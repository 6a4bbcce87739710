#!/usr/bin/perl
# Writes the seeds of the wire, ring and arena targets to tests/fuzz/corpus/<name>/seed-*. What fuzzing
# found beyond them lies beside them under its hash, minimised with -merge=1.
#
#   tests/fuzz/make_corpus.pl      from anywhere
use strict;
use warnings;
use File::Basename;
use File::Path 'make_path';

chdir(dirname(__FILE__)) or die;

sub seed {
    my ($target, $name, $bytes) = @_;
    make_path("corpus/$target");
    open(my $f, '>:raw', "corpus/$target/seed-$name") or die;
    print $f $bytes;
    close($f) or die;
}

sub hello { # version_min version_max wanted required lanes arena
    my ($min, $max, $wanted, $required, $lanes, $arena) = @_;
    return pack('a8 v v V Q< Q< a16 V V Q<', 'DYNASOR1', $min, $max, 0, $wanted, $required,
        '0123456789abcdef', $lanes, 0, $arena);
}
seed('hello', 'good', hello(1, 1, 3, 1, 4, 65536));
seed('hello', 'newer', hello(1, 9, ~0, 0, 16, 67108864));
seed('hello', 'version', hello(7, 9, 0, 0, 1, 4096));
seed('hello', 'feature', hello(1, 1, 0, 1 << 40, 1, 4096));
seed('hello', 'lanes', hello(1, 1, 0, 0, 17, 4096));
seed('hello', 'arena', hello(1, 1, 0, 0, 1, 4097));
seed('hello', 'short', substr(hello(1, 1, 0, 0, 1, 4096), 0, 16));

sub submit { # flags streams index max_tokens bytes last24
    return pack('C C C C V Q< Q< V V a24', 1, $_[0], 0, $_[1], $_[2], 7, 42, @_[3, 4, 5]);
}
sub spec { return pack('V V Q<', @_) }
my $ways = "\0"; # which limits
seed('record', 'inline-text', submit(0, 3, 1, 100, 5, 'hello') . $ways);
seed('record', 'inline-utf8', submit(0, 1, 1, 100, 9, "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80") . $ways);
seed('record', 'inline-tokens', submit(2, 1, 511, 1, 8, pack('V V', 1, 49999)) . $ways);
seed('record', 'payload-text', submit(1, 3, 0, 100, 40, pack('Q<', 0)) . $ways . spec(16, 2, 9) . 'a prompt of 24 bytes ....');
seed('record', 'payload-tokens', submit(3, 3, 0, 100, 32, pack('Q<', 64)) . $ways . "\0" x 64 . spec(24, 0, 0) . "\0" x 8 . pack('V V', 5, 6));
seed('record', 'payload-end', submit(1, 1, 0, 9, 64, pack('Q<', 4032)) . "\x1f");
seed('record', 'cancel', pack('C x3 V Q< x40', 2, 3, 9) . $ways);
seed('record', 'release', pack('C x3 V Q< x40', 3, 3, 9) . $ways);
seed('record', 'op', pack('C x55', 9) . $ways);
sub command { # command flags bytes branch last36
    return pack('C C C C V Q< V a36', 4, @_[0, 1, 2], 3, 9, @_[3, 4]) . $ways;
}
seed('record', 'give', command(1, 0, 5, 0, 'hello'));
seed('record', 'fork', command(2, 7, 0, 0, pack('V V V f< f< f< V V', ~0 & 0xffffffff, 0, 64, 0.8, 1, 0, 40, 3)));
seed('record', 'probe', command(3, 0, 0, 1, pack('V V V x16 V', 0, 12, 20, 2)));
seed('record', 'extend', command(4, 0, 0, 0, pack('V', 32)));
seed('record', 'kill', command(6, 0, 0, 1, ''));
seed('record', 'report', command(7, 0, 0, 0, pack('V V f<', 3, 8, 0.75)));
seed('record', 'finish', command(8, 0, 0, 1, pack('V V', 1, 1)));

my $honest = "\x02" . "\x02\0\0\0\0\0\0"; # a record whose words are small
seed('ring', 'laps', ($honest . "\x05") x 20);
seed('ring', 'full', $honest x 9 . "\x05" x 9);
seed('ring', 'events', "\x07" x 8 . "\x03\x80\x06" . "\x07" x 8 . "\x06");
seed('ring', 'bad-credit', "\x07" x 4 . "\x03\x81\x06\x03\x7b\x06\x04" . "\xff" x 8 . "\x06\x03\x80\x06\x03\x7f\x06");
seed('ring', 'bad-sequence', $honest . "\x05\x01\x01\x82\x05\x01\x01\x81\x05\x05");
seed('ring', 'scribble', join('', map { pack('C n C', 0, $_ * 37, $_) . "\x05\x06" } 0 .. 40));

seed('arena', 'blocks', "\0" . "\x02\x20" x 64 . "\x01\x07" x 64);
seed('arena', 'mixed', "\x02" . join('', map { pack('C C', $_ * 7 & 255, $_ * 31 & 255) } 0 .. 90));
seed('arena', 'large', "\x07" . "\xfe\xff\xfe\x10\x01\x00\x80\x40\xfe\x7f");
