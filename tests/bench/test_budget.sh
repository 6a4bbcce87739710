#!/bin/bash
# `dynasor-bench budget` on eight problems that are counted by hand: half of them are right from the first sample on,
# half are right by majority from the fourth sample on. With three samples each even is right in one half;
# a profile that lets those go that agree at two leaves enough for one of two others, one that lets nobody go does
# not, and one that begins beyond even's three may not be chosen however much it gains.
set -u
bench=${DYN_BUILD:-$PWD/build}/bin/dynasor-bench
folder=$(mktemp -d "${TMPDIR:-/tmp}/budget.XXXXXX")
trap 'rm -rf "$folder"' EXIT
fail() {
    echo "FAIL: $*"
    cat "$folder/out" 2>/dev/null
    exit 1
}
{
    printf 'problem\tprogram\talgorithm\tn\ttokens\tanswer\tright\n'
    for p in 0 1 2 3 4 5 6 7; do
        for n in 1 2 3 4 5 6; do
            answer=r
            [ $((p % 2)) = 1 ] && [ $n -le 2 ] && answer=wrong$n
            printf '%d\t%d\tsc\t%d\t%d\t%s\t%d\n' $p $p $n $((10 * n)) $answer "$([ $answer = r ]; echo $((1 - $?)))"
        done
    done
} >"$folder/log"
# profile FILE DETECT THRESHOLD
profile() {
    printf '[profile]\nname = %s\n[policy]\nkind = k_step\ndetect = %d\nstep = 1\n[certainty]\n%d = %s\n' \
        "$1" "$2" "$2" "$3" >"$folder/$1.ini"
}
profile agree 2 0.5
profile nobody 2 1
profile late 5 0.1
"$bench" budget --log "$folder/log" --even 3 --problems 4 "$folder"/{nobody,agree,late}.ini >"$folder/out" ||
    fail "status $?"
# Of 118 tokens two that agree leave 78 to two that need four samples of ten tokens: one of them gets them.
grep -q 'agree.ini *even  3: right 50.00 %, 30.0 tokens; +25.00 .* 91.7 % of' "$folder/out" || fail 'what agree gains'
grep -q 'nobody.ini *even  3: .* +0.00' "$folder/out" || fail 'what nobody gains'
grep -q 'late.ini *even  3: .*; +50.00 .* 1[0-9][0-9]\.[0-9] % of the tokens' "$folder/out" || fail 'what late gains'
[ "$(tail -n 1 "$folder/out")" = "best $folder/agree.ini" ] || fail 'the best'
"$bench" budget --log "$folder/log" --even 3 "$folder/late.ini" >"$folder/out" 2>&1 && fail 'only one that spends more'
grep -q 'each of them spends more than even' "$folder/out" || fail 'and that is not said'
"$bench" budget --log "$folder/log" >"$folder/out" 2>&1
[ $? = 2 ] || fail 'no profile is no usage error'
echo 'three profiles'
