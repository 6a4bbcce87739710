#!/bin/bash
# `dynasor-bench programs` on logs of a few programs whose share, loss, giving up, trees, chains and latency price are
# counted by hand. Runs nothing.
set -u
bench=${DYN_BUILD:-$PWD/build}/bin/dynasor-bench
folder=$(mktemp -d "${TMPDIR:-/tmp}/figures.XXXXXX")
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/profiles"
fail() {
    echo "FAIL: $*"
    cat "$folder/out"
    exit 1
}
said() { "$bench" programs --logs "$folder" >"$folder/out"; }
bar() { grep -q "^bar $1$" "$folder/out" || fail "$1"; }

# log NAME HEAD: programs come on stdin, a line of PROBLEM KNOB RIGHT TOKENS MILLISECONDS ANSWERS... each.
log() {
    {
        echo "# task=$2 max_tokens=320 temperature=0.9"
        printf 'problem\tseed\tlevel\tverdict\tknob\tright\tdecoded\tprobe\treward\tkilled\tsteps\tms\thash\tanswers\n'
        while read -r problem knob right tokens ms answers; do
            printf '%d\t0\t2\t1\t%d\t%d\t%d\t0\t0\t0\t1\t%d\t1\t%s\n' "$problem" "$knob" "$right" "$tokens" "$ms" "$answers"
        done
    } >"$folder/$1.tsv"
}
# profile NAME LINE...
profile() {
    { printf '[profile]\nname = %s\n' "$1"; printf '%s\n' "${@:2}"; } >"$folder/profiles/$1.ini"
}
# many COUNT WORD: that often
many() { for ((i = 0; i < $1; i++)); do printf ' %s' "$2"; done; }
others() { for ((i = 1; i < 29; i++)); do printf ' %d-20' $i; done; }

# Four programs of 30 samples; static reads five. The first and the last agree, and are right; the second has no two
# that agree, and is right with the last; the third agrees on what is wrong, and is right with its eleventh. So three
# of four stop, which allows 3/4 * 25/30 = 62.5 %; of 1,500 tokens they save 750, 50 % or 80 % of that; one of
# four is lost.
log sc-words 'words set=test algorithm=sc profile=even policy=even cap=30' <<END
0 30 1 300 1 0+10w0$(many 29 0+10)
1 30 1 600 1 0-20w0$(others) 29+20w29
2 30 1 300 1 0-10w0$(many 4 0-10)$(many 5 1+10) 1+10w5$(many 19 1+10)
3 30 1 300 1 0+10w0$(many 29 0+10)
END
profile sc-words-static '[policy]' 'kind = static' 'detect = 5' '[certainty]' '5 = 0.7'
# Who gives up the second one after five samples spends 250 where 750 were spent, and loses one of four.
profile sc-words-give_up '[policy]' 'kind = k_step' 'detect = 5' 'step = 5' 'give_up_below = 0.05' \
    '[certainty]' '5 = 0.7' '[chance]' "5 = 0.01$(many 10 0.5)"
said
bar 'sc_words_static_loss 25 <= 0.5 short'
bar 'sc_words_static_share 80 >= 95 short'
bar 'sc_words_static_saving 50 >= 30 ok'
bar 'give_up_saving 66.67 > 0 ok'
bar 'give_up_right_lost 25 <= 0.5 short'

# Rebase, a log for each cap. At 16 there is only that of even, and nothing to stop; at 128 two of two stop at 16 of 128
# and spend 212 of 1,280 tokens: one that was wrong with all of them is right, one that was right is wrong.
for cap in 16 128; do
    log rebase-words-even-$cap "words set=test algorithm=rebase profile=even policy=even cap=$cap" <<END
0 $cap 0 $((10 * cap)) 1 0-10w0$(many $((cap - 1)) 0-10)
1 $cap 1 $((10 * cap)) 1 0+10w0$(many $((cap - 1)) 0+10)
END
done
log rebase-words-split-128 'words set=test algorithm=rebase profile=x policy=static cap=128' <<END
0 128 1 1600 1 0+12w0$(many 14 0+12) 0+32$(many 112 0+12)
1 128 0 1600 1 0-12w0$(many 14 0-12) 0-32$(many 112 0-12)
END
profile rebase-words-static '[policy]' 'kind = static' 'detect = 16' '[certainty]' '16 = 0.7'
"$bench" programs --logs "$folder" --out "$folder" >"$folder/out"
bar 'rebase_words_static_loss 0 <= 0.5 ok'
bar 'rebase_words_static_share 95.36 >= 95 ok' # 83.4 of 112 / 128, 87.5 %
row() { cut -f 1-5 "$folder/caps.tsv" | grep -qx "$(printf 'rebase_words\t%s\t%s' "$1" "$2")" || fail "caps: $1"; }
row 'even	16' '50.00	160.0'
row 'static	16' '50.00	160.0'
row 'even	128' '50.00	1280.0'
row 'static	128' '50.00	212.0'

# Best of four at 100 tokens each: nobody is right with one, one of two with two, both with three. A tree of 250
# is compared with so much of three as of two, 75 %; one of 50 with a single one.
log best_of_n-game24 'game24 set=test algorithm=best_of_n profile=even policy=even cap=4' <<END
0 4 1 400 1 0-100r100w0 1+100r900w1 0-100r100 0-100r100
1 4 1 400 1 0-100r100w0 0-100r100 1+100r900w2 0-100r100
END
log mcts-game24 'game24 set=test algorithm=mcts profile=even policy=even cap=1' <<END
0 1 1 200 1 0+200r900w0
1 1 0 300 1 0-300r100w0
END
log rebase-game24 'game24 set=test algorithm=rebase profile=even policy=even cap=1' <<END
0 1 1 50 1 0+50r900w0
1 1 1 50 1 0+50r900w0
END
said
bar 'mcts_over_best_of_n -25 >= 0 short'
bar 'rebase_over_best_of_n 100 >= 0 ok'

# Four chains of 120 tokens, which end where two probes agree. The first does after 64 tokens and 15 of probes and is
# right, the second likewise and is wrong; the third hesitates at its first probe: 96 and 20; the last never does: 120
# and 20. So of 480 they spend 414, and one of four is lost. Without heed the third is like the first: 377.
log cot-long 'long set=test algorithm=cot profile=even policy=even cap=0' <<END
0 96 1 120 1 0+32p10w0 0+32p5w1 0+32p5w2 0+24w3
1 96 1 120 1 0-32p10w0 0-32p5w1 1+32p5w2 1+24w3
2 96 1 120 1 0+32!p10w0 0+32p5w1 0+32p5w2 0+24w3
3 96 1 120 1 0-32p10w0 1-32p5w1 2+32p5w2 2+24w3
END
profile cot-long-1 'algorithm = cot' '[policy]' 'kind = probe' '[probe]' 'first_tokens = 32' 'interval_tokens = 32' \
    'window = 2' 'hesitation = blocks'
said
bar 'cot_long_loss_1 25 <= 1 short'
bar 'cot_long_saving_1 13.75 >= 10 ok'
high=$(awk '$2 == "cot_long_loss_1_high" { print $3 }' "$folder/out")
[ "${high%.*}" -ge 50 ] 2>/dev/null || fail "the upper end of 25 points of four programs is ${high:-not said}"
grep -q '^  cot-long-1	ignored .* saved 21.5 ' "$folder/out" || fail 'hesitation ignored'

# Latency: one policy takes half as long again as static.
log live-sc-words-even 'words set=test algorithm=sc profile=even policy=even cap=3' <<<"0 3 1 30 3000 0+10w0 0+10 0+10"
log live-sc-words-static 'words set=test algorithm=sc profile=x policy=static cap=3' <<<"0 2 1 20 2000 0+10w0 0+10"
log live-sc-words-k_step1 'words set=test algorithm=sc profile=x policy=k_step cap=3' <<<"0 1 1 10 3000 0+10w0"
said
grep -q '^  sc-words	static	2.00	1.00 ' "$folder/out" || fail 'static over static'
grep -q '^  sc-words	k_step1	3.00	1.50 ' "$folder/out" || fail 'k_step over static'
bar 'sc_words_per_step_over_static 33.33 >= 0 ok' # 66.7 % of three samples saved, and 33.3 %
echo 'share, loss, giving up, trees, chains and latency are as counted'
