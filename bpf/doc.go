// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// Package bpf holds the programs that run in the kernel, their headers, and the
// Go bindings and objects made from them. include/types.h is the only
// definition of what Go and C share. The objects are little-endian and need
// nothing of the building machine but the compiler: include/kernel.h says what
// they use of the kernel's ABI.
package bpf

//go:generate go tool -modfile=../tools/go.mod bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -go-package bpf -type layout -type group_bits -type inline_backend -type service_flags -type backend_state -type affinity_kind -type reverse_kinds Socket socket.c -- -O2 -mcpu=v3 -Wall -Wextra -Werror

//go:generate go tool -modfile=../tools/go.mod bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -go-package bpf -type packet_layout -type direction -type reason -type packet_event Mesh mesh.c -- -O2 -mcpu=v3 -Wall -Wextra -Werror

//go:generate go tool -modfile=../tools/go.mod bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -go-package bpf -output-suffix _test -no-global-types -type reading Stress stress.c -- -O2 -mcpu=v3 -Wall -Wextra -Werror
