#!/usr/bin/perl
# Checks the rules of docs/STYLE.md that a text can show: layers, third-party headers, banned calls,
# allocation, sizes, ORDER pairs, words that must not be left behind.
#
#   tools/lint/rules.pl [root]      default: this tree
#
# The tables beside this file are the law. Prints `file:line: rule: message`; status 1 if any.
use strict;
use warnings;
use File::Basename;
use Cwd 'abs_path';

my $lint = dirname(abs_path(__FILE__));
chdir($ARGV[0] // "$lint/../..") or die "$ARGV[0]: $!\n";
$lint = 'tools/lint' if -d 'tools/lint';

my $found = 0;

sub report {
    my ($file, $line, $rule, $message) = @_;
    print "$file:$line: $rule: $message\n";
    $found++;
}

sub table {
    my ($name) = @_;
    open(my $f, '<', "$lint/$name") or die "$lint/$name: $!\n";
    my @rows = grep { /\S/ && !/^#/ } <$f>;
    chomp @rows;
    return @rows;
}

sub slurp {
    my ($file) = @_;
    open(my $f, '<', $file) or die "$file: $!\n";
    local $/;
    return scalar(<$f>) // '';
}

# The same text with comments, or comments and strings, turned into blanks; lines stay where they are.
sub blank {
    my ($text) = @_;
    $text =~ s/[^\n]/ /g;
    return $text;
}

sub strip {
    my ($text, $strings) = @_;
    $text =~ s{(/\*.*?\*/|//[^\n]*)|("(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')}
              {defined $1 ? blank($1) : $strings ? substr($2, 0, 1) . blank(substr($2, 1, -1)) . substr($2, -1) : $2}gse;
    return $text;
}

sub line_at {
    my ($text, $position) = @_;
    return 1 + (substr($text, 0, $position) =~ tr/\n//);
}

# ---- includes ---------------------------------------------------------------------------------

my %layers;
for (table('layers')) {
    my ($folder, @may) = split;
    $layers{$folder} = { map { $_ => 1 } @may, $folder };
}
my @thirdparty = map { [split(' ', $_, 2)] } table('thirdparty');

sub layer_of {
    my ($path) = @_;
    return 'include' if $path =~ m{^dynasor/};
    $path = dirname($path);
    while (!exists $layers{$path}) {
        return undef if $path !~ s{/[^/]*$}{};
    }
    return $path;
}

sub check_layer {
    my ($file, $line, $open, $name) = @_;
    if ($file =~ m{^client/examples/}) {
        report($file, $line, 'layer', "an example includes only <dynasor/...> and system headers")
            if $open eq '"';
        return;
    }
    return if $file =~ m{^tests/};
    return if $open eq '<' && $name !~ m{^dynasor/};
    my ($from, $to) = (layer_of($file), layer_of($name));
    return if !defined $from; # reported once a file
    if ($open eq '"' && $name !~ m{/}) {
        report($file, $line, 'layer', "\"$name\" is not written from the root");
    } elsif (!defined $to) {
        report($file, $line, 'layer', "\"$name\" is in no folder of the layers table");
    } elsif (!$layers{$from}{$to}) {
        report($file, $line, 'layer', "$from may not include from $to ($name)");
    }
}

sub check_includes {
    my ($file, $text) = @_;
    if ($file !~ m{^tests/}) {
        my $layer = layer_of($file);
        report($file, 1, 'layer', 'this folder is not in the layers table')
            if !defined $layer || ($layer eq 'daemon' && $file =~ m{^daemon/.*/});
    }
    while ($text =~ m{^[ \t]*\#[ \t]*include[ \t]*([<"])([^>"\n]+)[>"]}mg) {
        my ($open, $name, $line) = ($1, $2, line_at($text, $-[1]));
        check_layer($file, $line, $open, $name);
        for (@thirdparty) {
            my ($header, $may) = @$_;
            next if $name !~ m{^(?:$header)$} || $file =~ m{^(?:$may)$};
            report($file, $line, 'thirdparty', "<$name> belongs to $may alone");
        }
    }
}

# ---- calls ------------------------------------------------------------------------------------

my @banned = map { [split(/ \| /, $_)] } table('banned');
my @alloc_allowed = map { (split)[0] } table('alloc-allowed');
my $alloc = qr/(?<![\w.>])(malloc|calloc|realloc|reallocarray|free|strn?dup|v?asprintf|aligned_alloc|posix_memalign|getline|getdelim|open_memstream)\s*\(/;

sub listed {
    my ($file, @list) = @_;
    return grep { $file eq $_ || (m{/$} && index($file, $_) == 0) } @list;
}

sub check_calls {
    my ($file, $code) = @_;
    for (@banned) {
        my ($what, $where, $why) = @$_;
        next if $where ne '-' && $file =~ m{^(?:$where)$};
        while ($code =~ /$what/g) {
            my $line = line_at($code, $-[0]);
            my ($word) = $& =~ /(\w+)/;
            report($file, $line, 'banned', "$word: $why");
        }
    }
    return if listed($file, @alloc_allowed);
    while ($code =~ /$alloc/g) {
        report($file, line_at($code, $-[1]), 'alloc', "$1: not in tools/lint/alloc-allowed");
    }
}

# ---- sizes ------------------------------------------------------------------------------------

use constant { FUNCTION_LINES => 70, FILE_LINES => 1000, HEADER_LINES => 200 };
my %ratchet;
for (table('long-functions')) {
    my ($file, $name, $max) = split;
    $ratchet{"$file $name"} = $max;
}
my @catalogues = table('catalogues');

sub check_function {
    my ($file, $line, $name, $lines) = @_;
    my $max = $ratchet{"$file $name"};
    return if $lines <= FUNCTION_LINES;
    if (!defined $max) {
        report($file, $line, 'length', "$name has $lines lines, at most " . FUNCTION_LINES);
    } elsif ($lines > $max) {
        report($file, $line, 'length', "$name grew to $lines lines, its ratchet is $max");
    } else {
        delete $ratchet{"$file $name"};
        return;
    }
    delete $ratchet{"$file $name"};
}

sub check_functions {
    my ($file, $code) = @_;
    $code =~ s/^[ \t]*#(?:[^\n]*\\\n)*[^\n]*/blank($&)/gme;
    $code =~ s/(?:__attribute__|__launch_bounds__)\s*(\((?:[^()]++|(?1))*\))/blank($&)/ge;
    $code =~ s/extern\s+"[^"]*"\s*\{/blank($&)/ge;
    my ($depth, $head, $start, $name) = (0, '', 0, undef);
    while ($code =~ /([{};])|([^{};]+)/g) {
        if (defined $2) {
            $head .= $2 if $depth == 0;
        } elsif ($1 eq ';') {
            $head = '' if $depth == 0;
        } elsif ($1 eq '{') {
            if ($depth++ == 0) {
                $start = line_at($code, $-[1]);
                $name = undef;
                if ($head =~ /\)\s*$/ && $head =~ /^[^=]*?(\w+)\s*\(\s*(\w*)/s) {
                    my ($word, $argument) = ($1, $2);
                    $name = $word =~ /[a-z]/ ? $word : "$word($argument)";
                }
            }
        } elsif ($depth > 0 && --$depth == 0) {
            check_function($file, $start, $name, line_at($code, $-[1]) - $start + 1) if defined $name;
            $head = '';
        }
    }
}

sub check_sizes {
    my ($file, $text) = @_;
    my $lines = $text =~ tr/\n//;
    report($file, $lines, 'length', "the file has $lines lines, at most " . FILE_LINES)
        if $lines > FILE_LINES;
    return if $file !~ /\.h$/;
    report($file, $lines, 'length', "the header has $lines lines, at most " . HEADER_LINES)
        if $lines > HEADER_LINES && !listed($file, @catalogues);
    report($file, 1, 'once', 'a header needs #pragma once') if $text !~ /^#pragma once$/m;
}

# ---- comments ---------------------------------------------------------------------------------

sub check_slashes {
    my ($file, $text) = @_;
    $text =~ s{(/\*.*?\*/)|("(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')}{blank($&)}gse;
    while ($text =~ m{//}g) {
        report($file, line_at($text, $-[0]), 'comment', 'comments are written /* so */');
    }
}

my %order;

sub check_order {
    my ($file, $text) = @_;
    while ($text =~ /ORDER\(([\w.-]+)\)(\s+(publish|observe):)?/g) {
        my $line = line_at($text, $-[0]);
        if (!defined $2) {
            report($file, $line, 'order', "ORDER($1) must say publish: or observe:");
        }
        $order{$1}{$3 // 'unsaid'} //= "$file:$line";
    }
}

sub check_order_pairs {
    my $abi = -f 'docs/ABI.md' ? slurp('docs/ABI.md') : '';
    for my $name (sort keys %order) {
        my ($file, $line) = split(/:/, (values %{$order{$name}})[0]);
        for my $end ('publish', 'observe') {
            report($file, $line, 'order', "ORDER($name) has no $end end")
                if !$order{$name}{$end} && !$order{$name}{unsaid};
        }
        report($file, $line, 'order', "ORDER($name) does not stand in docs/ABI.md")
            if $abi !~ /(?<![\w-])\Q$name\E(?![\w-])/;
    }
}

# Written in pieces, because this file is checked as well.
my $leftover = '\b(TO' . 'DO|FIX' . 'ME|XX' . 'X)\b(?!\(#\d+\))';
my $elsewhere = '(?<![\w.*/-])/wo' . 'rk\b|\.\./sha' . 'red\b';

sub check_words {
    my ($file, $text) = @_;
    while ($text =~ /$leftover/g) {
        report($file, line_at($text, $-[0]), 'leftover', "$1 needs an issue number: $1(#12)");
    }
    while ($text =~ /$elsewhere/g) {
        report($file, line_at($text, $-[0]), 'path', 'a path of one machine');
    }
}

# ---- the tree ---------------------------------------------------------------------------------

open(my $tree, '-|', qw(find . ( -name .git -o -path ./build -o -path ./tests/fuzz/corpus ) -prune -o -type f -print))
    or die "find: $!\n";
chomp(my @files = <$tree>);
s{^\./}{} for @files;

for my $file (sort @files) {
    next if $file eq 'LICENSE' || (-s $file && -B $file);
    my $text = slurp($file);
    check_words($file, $text) if $file !~ m{^tools/lint/selftest$};
    next if $file !~ m{^(include|shm|client|daemon|kernels|tools|tests)/.*\.(c|h|cu)$};
    my $code = strip($text, 1);
    check_includes($file, strip($text, 0));
    check_calls($file, $code);
    check_sizes($file, $text);
    check_functions($file, $code);
    check_slashes($file, $text);
    check_order($file, $text) if $file =~ m{^(include|shm|client|daemon)/};
}
check_order_pairs();
for (sort keys %ratchet) {
    report("$lint/long-functions", 1, 'ratchet', "$_ no longer needs its entry");
}
print "$found findings\n" if $found;
exit($found ? 1 : 0);
