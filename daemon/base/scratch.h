/* daemon/base/scratch.h — large buffers that are written before they are read.
 *
 * The build zeroes every variable (-ftrivial-auto-var-init=zero). For the few kilobytes that a token's text may
 * have that costs more than the token.
 *
 * Thread: any. Fails: never. */
#pragma once

#define SCRATCH __attribute__((uninitialized))
