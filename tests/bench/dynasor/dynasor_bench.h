/* tests/bench/dynasor/dynasor_bench.h — what `dynasor-bench NAME` runs; each in a folder of its own. Arguments are
 * those after the name. Returns the exit status. Thread: main. */
#pragma once

int bench_engine_main(int argc, char **argv);
int bench_reasoner_main(int argc, char **argv);
int bench_batch_main(int argc, char **argv);
int bench_programs_main(int argc, char **argv);
int bench_hidden_main(int argc, char **argv);
int bench_budget_main(int argc, char **argv);
