# Accuracy against tokens at five thresholds; correlation and classes of programs by detect step.
set terminal pngcairo size 1200,500
set output target.'/signals.png'
set datafile separator '\t'
set grid
set multiplot layout 1,2
set xlabel 'tokens of a program'
set ylabel 'right, %'
set logscale x
set key bottom left
plot for [log in 'sc-words rebase-words-split-128 mcts-game24 cot-long'] folder.'/thresholds.tsv' \
    using (strcol(1) eq log ? $5 : NaN):4 with linespoints title log noenhanced
unset logscale x
set key center right
set yrange [0:100]
set xlabel 'samples before the reading'
set ylabel 'correlation with the samples needed; share, %'
plot folder.'/detects.tsv' using 1:($2 * -100) with linespoints title '-100 Pearson', \
    for [class in 'early-stoppable solvable unsolvable'] \
    sprintf("< awk -F'\\t' '$2 == \"%s\"' %s/classes.tsv", class, folder) using 1:3 with linespoints title class
unset multiplot
