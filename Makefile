# Dynasor: the one build file. Sources are found by folder, so adding a file needs no edit here.
# `make help` lists the targets. Variables: V=1 (show commands), BUILD=folder, CC=clang,
# SAN=asan|tsan (its own folder below BUILD), DESTDIR=, PREFIX=.

VERSION := 0.1.0
BUILD   ?= build
PREFIX  ?= /usr
LIBDIR  ?= $(PREFIX)/lib
SYSCONF ?= /etc
CXX     ?= g++
CLANG   ?= clang
OBJCOPY ?= objcopy

SHELL         := /bin/bash
MAKEFLAGS     += --no-builtin-rules --no-print-directory
.SUFFIXES:
.DELETE_ON_ERROR:
.SECONDARY:
.DEFAULT_GOAL := all

B  := $(BUILD)$(if $(SAN),/$(SAN))
Q  := $(if $(V),,@)
say = @printf '  %-7s %s\n' $(1) $(2)
export DYN_BUILD := $(abspath $(B))

# ---- sources ------------------------------------------------------------------------------------

find = $(sort $(shell find $(wildcard $(1)) -name $(2) -type f 2>/dev/null </dev/null))
found = $(if $(wildcard $(1)),$(call find,$(1),$(2)))

SHM_SRC     := $(wildcard shm/*.c)
CLIENT_SRC  := $(wildcard client/*.c)
DAEMON_SRC  := $(call found,daemon,'*.c') $(call found,kernels/ref kernels/cpu,'*.c') kernels/cuda/loader.c
TOOL_SRC    := $(wildcard tools/dynasor*.c)
CALIBRATE_SRC := $(wildcard tools/calibrate/*.c)
EXAMPLE_SRC := $(wildcard client/examples/*.c)
TESTLIB_SRC := $(wildcard tests/lib/*.c)
BENCH_SRC   := $(wildcard tests/bench/*.c)
DYN_BENCH_SRC := $(wildcard tests/bench/dynasor/*.c tests/bench/engine/*.c tests/bench/reasoner/*.c \
                 tests/bench/batch/*.c) $(filter-out %/main.c,$(CALIBRATE_SRC))
FUZZ_SRC    := $(wildcard tests/fuzz/fuzz_*.c)
CUDA_SRC    := $(wildcard kernels/cuda/*.cu)
# In tests/ipc a file without the test_ prefix is a helper: a program of its own when it has a main
# function, otherwise linked into every program of the folder.
IPC_HELPERS := $(filter-out tests/ipc/test_%,$(wildcard tests/ipc/*.c))
IPC_PROGS   := $(if $(IPC_HELPERS),$(shell grep -l '^int main' $(IPC_HELPERS)))
IPC_LIB     := $(filter-out $(IPC_PROGS),$(IPC_HELPERS))
TEST_SRC    := $(wildcard tests/unit/test_*.c tests/ipc/test_*.c tests/litmus/*.c) $(IPC_PROGS)
GPU_SRC     := $(wildcard tests/gpu/test_*.c)

HEADERS := $(call found,include shm client daemon kernels tools tests,'*.h')
SOURCES := $(call found,include shm client daemon kernels tools tests,'*.c')
FORMATTED := $(HEADERS) $(SOURCES) $(call found,kernels tests,'*.cu') $(call found,kernels,'*.cuh')

obj = $(patsubst %.c,$(B)/obj/%.o,$(1))
pic = $(patsubst %.c,$(B)/pic/%.o,$(1))

# ---- flags --------------------------------------------------------------------------------------

WARN := -Wall -Wextra -Wconversion -Wsign-conversion -Wshadow -Wvla -Wstrict-prototypes \
        -Wmissing-prototypes -Wundef -Wpointer-arith -Wcast-qual -Wformat=2 -Werror
# Accepted by some compilers only; what this one takes is probed once and kept in flags.mk.
PROBED := -Walloca -fstack-protector-strong -fstack-clash-protection -fcf-protection=full \
          -ftrivial-auto-var-init=zero
# Empty, so that a source which says `#define _GNU_SOURCE` itself repeats it exactly.
CPPFLAGS += -I. -Iinclude -D_GNU_SOURCE=
STD      := -std=gnu17
LIBS     := -luring -linih -ljansson -lutf8proc -lpthread -ldl -lm

ifeq ($(SAN),)
HARDEN := -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3
SOFLAGS := -Wl,-z,defs
else ifeq ($(SAN),asan)
SANFLAGS := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
else ifeq ($(SAN),tsan)
SANFLAGS := -fsanitize=thread -fno-omit-frame-pointer
else ifeq ($(SAN),fuzz)
override CC := $(CLANG)
SANFLAGS := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all \
            -fno-omit-frame-pointer
else
$(error SAN is asan or tsan)
endif
ifneq ($(filter default undefined,$(origin CC)),)
CC := gcc
endif

NOBUILD := help clean fmt fmt-check models
ifneq ($(filter-out $(NOBUILD),$(or $(MAKECMDGOALS),all)),)
FLAGS_MK := $(B)/flags-$(subst /,_,$(firstword $(CC))).mk
include $(FLAGS_MK)
endif

CFLAGS_ALL = $(STD) -O2 -g $(WARN) -fno-strict-aliasing $(ACCEPTED) $(HARDEN) $(SANFLAGS) $(CFLAGS)
LDFLAGS_ALL = $(SANFLAGS) -Wl,-z,relro,-z,now,-z,noexecstack -Wl,--as-needed $(LDFLAGS)

$(FLAGS_MK): Makefile
	@mkdir -p $(@D)
	@ok=; for f in $(PROBED); do \
	    echo 'int main(void) { return 0; }' | \
	        $(CC) -Werror $$f -x c -o /dev/null - >/dev/null 2>&1 && ok="$$ok $$f"; \
	done; echo "ACCEPTED :=$$ok" > $@.tmp && mv $@.tmp $@

# gcc's fake stack frames are aligned to 32 bytes, its own stores of 64-byte vectors to them want 64:
# https://gcc.gnu.org/bugzilla/show_bug.cgi?id=110027
SAN_STACK := $(if $(filter asan,$(SAN)),$(if $(filter gcc%,$(notdir $(CC))),--param=asan-use-after-return=0))
AVX512 := -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma $(SAN_STACK)

# Objects depend on the command line that makes them: another CC or CFLAGS builds anew.
ifdef FLAGS_MK
STAMP := $(B)/command
$(shell mkdir -p $(B); echo '$(CC) $(CPPFLAGS) $(CFLAGS_ALL) $(LDFLAGS_ALL) $(AVX512)' > $(B)/command.$$PPID; \
    if cmp -s $(B)/command.$$PPID $(STAMP); then rm -f $(B)/command.$$PPID; \
    else mv $(B)/command.$$PPID $(STAMP); fi)
endif

# Kernels by instruction-set level, chosen at run time. Wide vectors between our own functions are inlined,
# so how they would be passed does not matter (-Wno-psabi).
level = $(if $(filter kernels/cpu/%,$<),-O3 -ffp-contract=fast -Wno-psabi $(if $(filter %_avx2.c,$<),-mavx2 -mfma) \
        $(if $(filter %_avx512.c,$<),$(AVX512)) $(if $(filter %_amx.c,$<),$(AVX512) -mavx512bf16 -mamx-tile -mamx-bf16))

$(B)/obj/%.o: %.c $(STAMP)
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS_ALL) $(level) -fPIE -MMD -MP -c $< -o $@

$(B)/pic/%.o: %.c $(STAMP)
	$(call say,CC,'$< (pic)')
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS_ALL) -fPIC -fvisibility=hidden -MMD -MP -c $< -o $@

link = $(call say,LINK,$@) && mkdir -p $(@D)
ld   = $(CC) -pie $(LDFLAGS_ALL) -o $@

# ---- products -----------------------------------------------------------------------------------

DAEMON   := $(if $(wildcard daemon/main.c),$(B)/bin/dynasord)
TOOLS    := $(patsubst tools/%.c,$(B)/bin/%,$(TOOL_SRC))
CALIBRATE := $(if $(CALIBRATE_SRC),$(B)/bin/dynasor-calibrate)
# For tests and benchmarks; not installed.
MAKERS   := $(patsubst tools/model/%.c,$(B)/bin/%,$(wildcard tools/model/*.c))
EXAMPLES := $(patsubst client/examples/%.c,$(B)/examples/%,$(EXAMPLE_SRC))
SO       := $(B)/lib/libdynasor-client.so
LIBRARY  := $(if $(CLIENT_SRC),$(SO).1 $(SO) $(B)/lib/libdynasor-client.a)
# Everything but main functions, for tools and tests: an archive, so a test links only what it uses
# and may replace a whole file by its own.
INTERNAL := $(B)/lib/internal.a
TESTLIB  := $(B)/lib/testlib.a

.PHONY: all
all: $(DAEMON) $(TOOLS) $(CALIBRATE) $(LIBRARY) $(EXAMPLES) cuda ## everything that is installed, and the examples

# libdynasor-cuda.so is opened by name: beside the daemon's own folder, or where the system looks.
BESIDE := -Wl,-rpath,'$$ORIGIN/../lib'
$(B)/bin/dynasord: $(call obj,$(DAEMON_SRC) $(SHM_SRC))
	$(link)
	$(Q)$(ld) $^ $(BESIDE) $(LIBS)

$(INTERNAL): $(call obj,$(filter-out daemon/main.c,$(DAEMON_SRC)) $(SHM_SRC) $(CLIENT_SRC))
$(TESTLIB): $(call obj,$(TESTLIB_SRC))
$(INTERNAL) $(TESTLIB):
	@mkdir -p $(@D)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

$(TOOLS): $(B)/bin/%: $(B)/obj/tools/%.o $(INTERNAL)
	$(link)
	$(Q)$(ld) $^ $(LIBS)

$(CALIBRATE): $(call obj,$(CALIBRATE_SRC)) $(INTERNAL)
	$(link)
	$(Q)$(ld) $^ $(LIBS)

$(MAKERS): $(B)/bin/%: $(B)/obj/tools/model/%.o $(INTERNAL)
	$(link)
	$(Q)$(ld) $^ $(LIBS)

MAP := $(wildcard client/libdynasor-client.map)
MAPFLAG := -Wl,--version-script=
$(SO).1: $(call pic,$(CLIENT_SRC) $(SHM_SRC)) $(MAP)
	$(link)
	$(Q)$(CC) -shared $(LDFLAGS_ALL) $(SOFLAGS) -Wl,-soname,$(@F) \
	    $(MAP:%=$(MAPFLAG)%) -o $@ $(filter %.o,$^) -lpthread
	@bad=$$(nm -D --defined-only $@ | awk '$$2 != "A" && $$3 !~ /^dynasor_/ { print $$3 }'); \
	    $(if $(SAN),,[ -z "$$bad" ] || { echo "$@ exports what is not ours: $$bad"; exit 1; })

$(SO): $(SO).1
	@ln -sf $(<F) $@

# One relocatable object whose hidden symbols become local: ours cannot clash with the host's.
$(B)/lib/libdynasor-client.a: $(call pic,$(CLIENT_SRC) $(SHM_SRC))
	$(link)
	$(Q)$(LD) -r -o $@.o $^ && $(OBJCOPY) --localize-hidden $@.o
	$(Q)rm -f $@ && $(AR) rcs $@ $@.o && rm -f $@.o

$(EXAMPLES): $(B)/examples/%: $(B)/obj/client/examples/%.o $(SO)
	$(link)
	$(Q)$(ld) $< -L$(B)/lib -ldynasor-client -Wl,-rpath,'$$ORIGIN/../lib' $(LDLIBS_EXAMPLE)

# ---- CUDA ---------------------------------------------------------------------------------------

NVCC := $(or $(shell command -v nvcc),$(wildcard /usr/local/cuda/bin/nvcc))
CUDA_SO := $(B)/lib/libdynasor-cuda.so
.PHONY: cuda
ifneq ($(SAN)$(if $(CUDA_SRC),,none),)
cuda:
else ifeq ($(NVCC),)
cuda:
	@echo 'CUDA parts skipped: nvcc not found ($(notdir $(CUDA_SO)))'
	@if [ "$$CI" = true ]; then echo 'error: CI needs nvcc' >&2; exit 1; fi
else
cuda: $(CUDA_SO) ## libdynasor-cuda.so (needs nvcc, no GPU)
endif

# Machine code for each of NVARCH, and for what is newer than the last an intermediate form that the driver
# compiles. One is enough for a check; `make release` takes all. A build folder keeps what it was told last, so that
# `make install` installs the release; code is made anew when the list or a flag changes.
NVSTAMP := $(B)/command-nvcc
ifneq ($(filter release check-cuda-release,$(MAKECMDGOALS)),)
NVARCH ?= 80 89 90a
endif
NVARCH ?= $(or $(shell sed 's/ :.*//' $(NVSTAMP) 2>/dev/null),80)
GENCODE = $(foreach n,$(NVARCH),-gencode arch=compute_$(n),code=sm_$(n)) \
          -gencode arch=compute_$(lastword $(filter-out %a,$(NVARCH))),code=compute_$(lastword $(filter-out %a,$(NVARCH)))
NVFLAGS = -std=c++17 -O3 -lineinfo -I. -Iinclude -Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wextra \
          -Werror all-warnings -Xptxas -v
ifdef FLAGS_MK
$(shell mkdir -p $(B); echo '$(NVARCH) : $(NVCC) $(NVFLAGS) $(GENCODE)' > $(NVSTAMP).$$PPID; \
    if cmp -s $(NVSTAMP).$$PPID $(NVSTAMP); then rm -f $(NVSTAMP).$$PPID; \
    else mv $(NVSTAMP).$$PPID $(NVSTAMP); fi)
endif

# What ptxas tells of registers and spills is kept beside the object: `make check-cuda-host` reads it.
$(B)/obj/%.cu.o: %.cu $(NVSTAMP)
	$(call say,NVCC,$<)
	@mkdir -p $(@D)
	$(Q)$(NVCC) $(NVFLAGS) $(GENCODE) -MMD -MP -MF $(@:.o=.d) -c $< -o $@ >$(@:.o=.ptxas) 2>&1 || { \
	    cat $(@:.o=.ptxas); exit 1; }

$(CUDA_SO): $(patsubst %.cu,$(B)/obj/%.cu.o,$(CUDA_SRC)) $(NVSTAMP)
	$(link)
	$(Q)$(NVCC) -shared -cudart static -Xlinker -z,relro,-z,now $(GENCODE) -o $@ $(filter %.o,$^)

.PHONY: release
release: all ## everything, with machine code for all supported GPUs

# The same kernels as plain C++, run by tests/gpu/emulate. Its callbacks stand where ThreadSanitizer's own
# would: with a sanitizer, tests that want it say that they are skipped.
HOST_CUDA := $(if $(SAN),,$(B)/lib/cuda-host.a)
HOST_CUDA_SRC := $(filter-out %/api.cu %/backend.cu %/probe.cu %/measure.cu,$(CUDA_SRC))
FAKE_DRIVER := $(B)/lib/fake-libcuda.so
$(B)/obj/%.host.o: %.cu Makefile
	$(call say,CXX,'$< (host)')
	@mkdir -p $(@D)
	$(Q)$(CXX) -x c++ -std=c++17 -O2 -g $(filter -Wall -Wextra -Wshadow -Wundef -Werror,$(WARN)) -Wno-unknown-pragmas \
	    -fno-exceptions -fno-rtti -fsanitize=thread -fPIC -fvisibility=hidden -include tests/gpu/emulate/simt.h -I. -Iinclude \
	    -MMD -MP -c $< -o $@

# The same as a library of its own beside a driver, for whole programs: LD_LIBRARY_PATH=$(B)/lib/emulated.
EMULATED := $(if $(SAN),,$(B)/lib/emulated/libdynasor-cuda.so $(B)/lib/emulated/libcuda.so.1)
$(B)/lib/emulated/libdynasor-cuda.so: $(patsubst %.cu,$(B)/obj/%.host.o,$(HOST_CUDA_SRC) kernels/cuda/backend.cu) \
        $(call pic,tests/gpu/emulate/fake_api.c tests/gpu/emulate/simt.c tests/gpu/emulate/library.c tests/lib/check.c)
	$(link)
	$(Q)$(CC) -shared $(LDFLAGS_ALL) $(SOFLAGS) -o $@ $^ -lpthread -lm

$(B)/lib/emulated/libcuda.so.1: $(B)/lib/fake-libcuda.so
	@mkdir -p $(@D) && cp $< $@

$(HOST_CUDA): $(patsubst %.cu,$(B)/obj/%.host.o,$(HOST_CUDA_SRC)) \
              $(call obj,$(filter-out %/fake_driver.c %/library.c,$(wildcard tests/gpu/emulate/*.c)))
	@mkdir -p $(@D)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

$(FAKE_DRIVER): tests/gpu/emulate/fake_driver.c tests/gpu/emulate/fake_driver.h kernels/cuda/backend.h kernels/ops.h Makefile
	$(link)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS_ALL) -fPIC -shared -o $@ $<

# ---- tests --------------------------------------------------------------------------------------

TESTS  := $(patsubst %.c,$(B)/%,$(TEST_SRC))
GPU    := $(patsubst %.c,$(B)/%,$(GPU_SRC))
REPLAY := $(patsubst tests/fuzz/fuzz_%.c,$(B)/tests/fuzz/replay_%,$(FUZZ_SRC))
FUZZ   := $(patsubst %.c,$(B)/%,$(FUZZ_SRC))
BENCH  := $(if $(BENCH_SRC),$(B)/bin/bench-ipc) $(if $(DYN_BENCH_SRC),$(B)/bin/dynasor-bench)

$(patsubst %.c,$(B)/%,$(filter tests/ipc/test_%,$(TEST_SRC))): $(call obj,$(IPC_LIB))
$(patsubst %.c,$(B)/%,$(filter tests/unit/test_cuda_%,$(TEST_SRC))): $(HOST_CUDA) | $(FAKE_DRIVER) $(if $(CUDA_SRC),cuda)
$(B)/tests/unit/test_calibrate $(B)/tests/unit/test_cross $(B)/tests/unit/test_livelog: $(call obj,$(filter-out %/main.c,$(CALIBRATE_SRC)))
$(B)/tests/unit/test_batch: $(call obj,$(addprefix tests/bench/,batch/stats.c batch/log.c dynasor/tasks.c))
$(B)/tests/unit/test_ridge: $(call obj,$(addprefix tests/bench/,batch/ridge.c batch/stats.c dynasor/tasks.c))
$(B)/tests/unit/test_reasoner_tasks: $(call obj,tests/bench/dynasor/tasks.c)
$(addprefix $(B)/tests/unit/test_,algorithms budget chains observe program_settings run_text): $(call obj,tests/unit/made_up.c)
$(addprefix $(B)/tests/unit/test_,engine_model sched_model): $(call obj,tests/bench/count_malloc.c)
GPU_BENCH := $(B)/bin/bench-gpu
$(GPU): $(call obj,tests/gpu/backend.c)
$(GPU_BENCH): $(call obj,tests/gpu/bench_gpu.c tests/gpu/backend.c) $(TESTLIB) $(INTERNAL)
	$(link)
	$(Q)$(ld) $^ $(LIBS)

$(TESTS) $(GPU): $(B)/tests/%: $(B)/obj/tests/%.o $(TESTLIB) $(INTERNAL)
	$(link)
	$(Q)$(ld) $(filter %.o,$^) $(filter %.a,$^) -lcmocka $(LIBS)

$(REPLAY): $(B)/tests/fuzz/replay_%: $(B)/obj/tests/fuzz/fuzz_%.o \
           $(B)/obj/tests/fuzz/replay_main.o $(TESTLIB) $(INTERNAL)
	$(link)
	$(Q)$(ld) $^ $(LIBS)

$(FUZZ): $(B)/tests/fuzz/%: $(B)/obj/tests/fuzz/%.o $(TESTLIB) $(INTERNAL)
	$(link)
	$(Q)$(ld) -fsanitize=fuzzer $^ $(LIBS)

$(B)/bin/bench-ipc: $(call obj,$(BENCH_SRC)) $(INTERNAL)
	$(link)
	$(Q)$(ld) $^ -lck $(LIBS)

$(B)/bin/dynasor-bench: $(call obj,$(DYN_BENCH_SRC)) $(INTERNAL)
	$(link)
	$(Q)$(ld) $^ $(BESIDE) $(LIBS)

# What programs cost besides the engine, on the scheduler that unit tests make up.
$(B)/bin/bench-steps: $(call obj,tests/bench/steps/steps.c tests/unit/made_up.c) $(TESTLIB) $(INTERNAL)
	$(link)
	$(Q)$(ld) $(foreach f,poll add fork remove,-Wl,--wrap=sched_$(f)) $^ -lcmocka $(LIBS)

# The daemon that hostile clients meet, and the one with a double fetch that they must break.
.PHONY: hardened
hardened:
ifeq ($(SAN),)
	@$(MAKE) SAN=asan BUILD=$(B) $(B)/asan/bin/dynasord
	@$(MAKE) SAN=asan BUILD=$(B)/mutant CFLAGS=-DDYN_MUTANT_DOUBLE_FETCH $(B)/mutant/asan/bin/dynasord
endif

.PHONY: tests run check check-asan check-tsan check-cuda-host check-cuda-release check-gpu check-gpu-sanitize bench-gpu e2e kill-campaign hostile-campaign models
tests: all $(MAKERS) hardened $(B)/lib/count_malloc.so $(TESTS) $(GPU) $(GPU_BENCH) $(EMULATED) $(if $(filter fuzz,$(SAN)),,$(REPLAY)) $(BENCH) ## build the test programs, run none

run: all $(MAKERS) $(B)/bin/dynasor-bench ## start the daemon with a small model and stream programs' events
	@tests/e2e/run-demo.sh

check: tests ## every test that needs no GPU (ONLY="name ..." runs some)
	@tests/run $(ONLY)

check-asan: ## the same under AddressSanitizer and UBSan
	@$(MAKE) SAN=asan check

check-tsan: ## the same under ThreadSanitizer
	@$(MAKE) SAN=tsan check

check-cuda-host: cuda $(EMULATED) $(DAEMON) $(TOOLS) $(EXAMPLES) $(MAKERS) $(patsubst %.c,$(B)/%,$(wildcard tests/unit/test_cuda_*.c)) ## the CUDA backend without a GPU: kernels on the host, faults, bars
	@tests/gpu/check-host.sh

check-cuda-release: cuda ## spills in hot kernels for every architecture of a release (minutes of nvcc)
	@tests/gpu/spills.sh

# The programs of both are compiled by `make tests`, GPU or not. Where there is a GPU, logs are kept.
GPU_LOGS := docs/results/gpu
check-gpu: cuda $(GPU) ## one folder of tests that need a GPU, and running it; status 77 where there is none
	@tests/gpu/folder.sh && tests/gpu/log.sh $(GPU_LOGS)/check-gpu$(if $(ONLY),-$(subst /,_,$(subst $() ,-,$(strip $(ONLY))))).log $(B)/gpu/run $(ONLY)

check-gpu-sanitize: cuda $(GPU) ## the same under the four tools of compute-sanitizer; status 77 without it or a GPU
	@tests/gpu/folder.sh && tests/gpu/sanitize.sh $(B)/gpu $(GPU_LOGS) $(ONLY)

# Random weights, 16 GB, made once and only where there is a GPU.
GPU_MODEL := $(B)/models/llama3.1-8b
bench-gpu: cuda $(GPU_BENCH) $(B)/bin/random_model ## measure a random Llama 3.1 8B on a GPU; status 77 where there is none
	@$(GPU_BENCH) --probe
	@[ -e $(GPU_MODEL)/.made ] || { mkdir -p $(dir $(GPU_MODEL)) && \
	    $(B)/bin/random_model tests/data/configs/llama3.1-8b.json $(GPU_MODEL) && touch $(GPU_MODEL)/.made; }
	@python3 tests/bench/peers/transformers_gpu.py tests/data/configs/llama3.1-8b.json $(B)/peers/transformers.txt || [ $$? = 77 ]
	@tests/gpu/log.sh $(GPU_LOGS)/bench-gpu.log $(GPU_BENCH) $(GPU_MODEL) $(B)/peers/transformers.txt

e2e: tests ## end to end: daemon, library and tools together
	@tests/run --kind e2e $(ONLY)

KILLS ?= 1000
kill-campaign: tests ## kill clients and daemons at random moments (KILLS=n)
	@KILLS=$(KILLS) TEST_TIMEOUT=86400 tests/run kill

HOSTILE_SECONDS ?= 600
hostile-campaign: tests ## clients that break every rule (HOSTILE_SECONDS=n)
	@HOSTILE_SECONDS=$(HOSTILE_SECONDS) TEST_TIMEOUT=$$(($(HOSTILE_SECONDS) * 2 + 300)) \
	    tests/run hostile

models: ## check the protocol models with Spin
	@tests/models/run

FUZZ_SECONDS ?= 60
.PHONY: fuzz fuzz-run bench-ipc bench-engine bench-reasoner campaign-reasoner peers campaign results bench-programs
fuzz: ## libFuzzer over every target, or TARGET=name (FUZZ_SECONDS=n each)
	@$(MAKE) SAN=fuzz fuzz-run
fuzz-run: $(FUZZ)
	@set -e; for f in $(if $(TARGET),$(B)/tests/fuzz/fuzz_$(TARGET:fuzz_%=%),$(FUZZ)); do \
	    n=$${f##*/fuzz_}; new=$(B)/corpus/$$n; old=tests/fuzz/corpus/$$n; mkdir -p $$new; \
	    [ -d $$old ] || old=; dict=tests/fuzz/$$n.dict; [ -f $$dict ] || dict=; \
	    echo "fuzz $$n: $(FUZZ_SECONDS) s"; \
	    $$f -max_total_time=$(FUZZ_SECONDS) -timeout=5 -rss_limit_mb=1024 -print_final_stats=1 \
	        -verbosity=0 -artifact_prefix=$(B)/crash-$$n- $${dict:+-dict=$$dict} $$new $$old; \
	done

# Preloaded into the daemon that the benchmark counts allocations of.
$(B)/lib/count_malloc.so: $(B)/pic/tests/bench/count_malloc.o
	$(link)
	$(Q)$(CC) -shared $(LDFLAGS_ALL) -o $@ $<

bench-ipc: $(B)/bin/bench-ipc $(DAEMON) $(B)/lib/count_malloc.so ## measure the transport (BENCH_ARGS=...)
	@$< $(BENCH_ARGS)

# Random weights, made once: 2.2 GB in bf16, so that caches do not help.
BENCH_MODEL := $(B)/models/tinyllama-1.1b
$(BENCH_MODEL)/.made: tests/data/configs/tinyllama-1.1b.json | $(B)/bin/random_model
	$(call say,MODEL,$(@D))
	@mkdir -p $(dir $(@D))
	$(Q)$(B)/bin/random_model $< $(@D) && touch $@

# The peer, where `make peers` built it, is timed again first: a noisy machine has other speeds at other times.
bench-engine: $(B)/bin/dynasor-bench $(BENCH_MODEL)/.made ## measure the engine (BENCH_ARGS=--quick)
	@case "$(BENCH_ARGS)" in *--quick*) ;; *) [ ! -d $(B)/peers/cmake ] || tools/peers $(B)/peers measure ;; esac
	@$< engine --model $(BENCH_MODEL) --peers $(B)/peers/result.txt $(BENCH_ARGS)

# What the shipped models can do: a tenth of the test sets, or all of them, which also goes into their card. Who watches
# is told how far it is; the bars come last.
REASONER := tools/model/dynasor-5m
MEASURE_REASONER = reasoner --policy $(REASONER)/policy --reward $(REASONER)/reward --tasks tools/model/tasks \
    --golden tests/golden/models/reasoner-policy/greedy.tsv $$([ ! -t 2 ] || echo --progress)
bench-reasoner: $(B)/bin/dynasor-bench ## measure the shipped models on a tenth of their test sets
	@$< $(MEASURE_REASONER) $(BENCH_ARGS)

campaign-reasoner: $(B)/bin/dynasor-bench ## measure them on all of it and write the card's table
	@rm -f $(B)/card.txt; $< $(MEASURE_REASONER) --stride 1 --card $(B)/card.txt; r=$$?; \
	    [ ! -e $(B)/card.txt ] || tools/model/reasoner/card $(B)/card.txt $(REASONER)/README.md; exit $$r

# Experiments with reasoning programs: docs/RESULTS.md. CAMPAIGN="PERCENT SEEDS" makes a smaller one.
RESULTS := docs/results
JUDGES := $(addprefix $(B)/tests/unit/test_,answer_equal cluster_vectors)
campaign: $(B)/bin/dynasor-bench $(CALIBRATE) ## run what is missing of the experiments behind docs/RESULTS.md (hours)
	@tools/results/campaign $(B) $(REASONER) tools/model/tasks $(RESULTS) $(CAMPAIGN)

results: $(B)/bin/dynasor-bench $(B)/bin/bench-steps $(CALIBRATE) $(JUDGES) ## tables and pictures of docs/RESULTS.md from the campaign's logs
	@tools/results/make $(B) $(RESULTS) docs/RESULTS.md

bench-programs: $(B)/bin/dynasor-bench $(B)/bin/bench-steps $(CALIBRATE) $(JUDGES) ## run 1 % of the campaign's programs again, and print its bars
	@tools/results/bench $(B) $(REASONER) tools/model/tasks $(RESULTS) $(B)/results $(BENCH_ARGS)

peers: ## builds llama.cpp once, with clang, for comparison
	@tools/peers $(B)/peers

# ---- source checks ------------------------------------------------------------------------------

.PHONY: fmt fmt-check lint
fmt: ## format all C and CUDA sources
	@$(if $(FORMATTED),clang-format -i $(FORMATTED))

fmt-check: ## fail where `make fmt` would change something
	@$(if $(FORMATTED),clang-format --dry-run -Werror $(FORMATTED))

lint: ## layers, banned calls, sizes, ORDER pairs, headers alone, clang
	@tools/lint/rules.pl
	@tools/lint/selftest
	@CC='$(CC)' CXX='$(CXX)' CLANG='$(CLANG)' \
	    LINT_FLAGS='$(CPPFLAGS) $(STD) $(WARN)' tools/lint/compile

# ---- installation -------------------------------------------------------------------------------

D = $(DESTDIR)$(PREFIX)
UNITS := $(foreach e,service socket slice target timer path,$(wildcard systemd/*.$(e)))
CONF := $(DESTDIR)$(SYSCONF)/dynasor/dynasord.conf
MAN := $(call found,client/man docs/man,'*.[1-8]')
put = $(if $(strip $(2)),install -D -m $(1) -t $(3) $(2))
# What names PREFIX is written here, not when building: each installation has its own.
fill = install -D -m 644 /dev/null $(2) && sed -e 's|@PREFIX@|$(PREFIX)|g' -e 's|@LIBDIR@|$(LIBDIR)|g' \
    -e 's|@INCLUDEDIR@|$(PREFIX)/include|g' -e 's|@VERSION@|$(VERSION)|g' \
    -e 's|^ExecStart=/usr/sbin/|ExecStart=$(PREFIX)/sbin/|' $(1) > $(2)

.PHONY: install clean help
install: all ## DESTDIR= PREFIX=/usr: programs, library, headers, pages, units, configuration
	$(Q)$(call put,755,$(DAEMON),$(D)/sbin)
	$(Q)$(call put,755,$(TOOLS) $(CALIBRATE),$(D)/bin)
	$(Q)$(call put,644,$(wildcard include/dynasor/*.h),$(D)/include/dynasor)
	$(Q)$(call put,644,$(filter %.1 %.a,$(LIBRARY)) $(if $(NVCC),$(CUDA_SO)),$(DESTDIR)$(LIBDIR))
	$(Q)$(if $(LIBRARY),ln -sf $(notdir $(SO)).1 $(DESTDIR)$(LIBDIR)/$(notdir $(SO)))
	$(Q)$(call fill,client/dynasor-client.pc.in,$(DESTDIR)$(LIBDIR)/pkgconfig/dynasor-client.pc)
	$(Q)set -e; $(foreach m,$(MAN),install -D -m 644 -t $(D)/share/man/man$(subst .,,$(suffix $(m))) $(m);)
	$(Q)$(foreach u,$(UNITS),$(call fill,$(u),$(D)/lib/systemd/system/$(notdir $(u))) &&) true
	$(Q)for t in sysusers tmpfiles; do \
	    install -D -m 644 systemd/dynasor.$$t.conf $(D)/lib/$$t.d/dynasor.conf || exit 1; done
	$(Q)if [ -e $(CONF) ]; then echo '$(CONF) is kept'; \
	    else install -D -m 644 systemd/dynasord.conf $(CONF); fi

clean: ## remove the build folder
	rm -rf $(B)

help: ## this list
	@awk -F '## ' '/^[a-z0-9-]+:.*## / { split($$1, t, ":"); printf "  %-18s %s\n", t[1], $$2 }' \
	    Makefile

-include $(if $(FLAGS_MK),$(call found,$(B)/obj $(B)/pic,'*.d'))
