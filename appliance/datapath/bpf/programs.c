// SPDX-License-Identifier: Apache-2.0
/* The programs of all hooks in one object, as they share their tables. */
#include "tc.c"
#include "xdp.c"

char LICENSE[] SEC("license") = "Apache-2.0";
