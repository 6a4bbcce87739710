# Accuracy against tokens at five thresholds; correlation by detect step.
set terminal pngcairo size 1200,500
set output target.'/signals.png'
set datafile separator '\t'
set grid
set multiplot layout 1,2
set xlabel 'tokens of a program'
set ylabel 'right, %'
plot for [log in 'sc-words rebase-words-split-128 mcts-game24'] folder.'/thresholds.tsv' \
    using (strcol(1) eq log ? $5 : NaN):4 with linespoints title log noenhanced
set xlabel 'samples before the reading'
set ylabel 'correlation with the samples needed; share of programs, %'
set datafile missing '-'
plot folder.'/detects.tsv' using 1:($2 * -100) with linespoints title '-100 Pearson', \
    '' using 1:3 with linespoints title 'may stop, %'
unset multiplot
