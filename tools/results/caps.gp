# Accuracy against tokens, even and static, cap by cap.
set terminal pngcairo size 1500,500
set output target.'/caps.png'
set datafile separator '\t'
set xtics rotate by -35
set xlabel 'tokens of a program'
set ylabel 'right, %'
set grid
set key bottom right
set multiplot layout 1,3
do for [task in 'sc_words rebase_words mcts_game24'] {
    set title task noenhanced
    plot for [policy in 'even static'] \
        sprintf("< awk -F'\\t' '$1 == \"%s\" && $2 == \"%s\"' %s/caps.tsv", task, policy, folder) \
        using 5:4 with linespoints title policy
}
unset multiplot
