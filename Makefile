# `make help` lists what can be made.

PREFIX ?= /usr/local
DESTDIR ?=
ADDR ?= 127.0.0.1
PORT ?= 8080
CC ?= cc
CXX ?= c++
CARGO ?= cargo
VERSION := $(shell sed -n 's/^version *= *"\(.*\)"/\1/p' Cargo.toml | head -n 1)
TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
LIB := $(abspath $(TARGET))/release
EXAMPLES := $(patsubst c_examples/%.c,%,$(wildcard c_examples/*.c))
HOST_CFLAGS := -std=gnu11 -O2 -g -Wall -Wextra -pthread -Iinclude
HOST_LDFLAGS := -L$(LIB) -lswiftnet -Wl,-rpath,$(LIB) -lm
MIN_RUST := 1.88

.PHONY: help run test test-rust test-c test-valgrind test-asan lib examples header install uninstall \
        bench bench-drivers soak check clean need-cargo need-cc need-cxx

help:
	@echo 'make run            build everything and serve c_examples/basic_server on ADDR=$(ADDR) PORT=$(PORT)'
	@echo 'make test           every test: Rust, C and C++; C again under valgrind and sanitizers'
	@echo 'make lib            $(TARGET)/release/libswiftnet.{so,a}'
	@echo 'make examples       $(TARGET)/examples-c/*'
	@echo 'make install        into PREFIX=$(PREFIX), below DESTDIR; make uninstall'
	@echo 'make bench          drivers, runs and report; make bench-drivers for the drivers only'
	@echo 'make soak           the stress programs over and over, SOAK_MINUTES=10'
	@echo 'make header         renew include/swiftnet.h from src/ffi'
	@echo 'make check          what CI runs: .ci/run'
	@echo 'make clean'

# Each says in one line what is missing and how to get it.
need-cargo:
	@command -v $(CARGO) >/dev/null 2>&1 || { \
	  echo 'cargo is missing: install Rust $(MIN_RUST) or newer with  curl https://sh.rustup.rs -sSf | sh'; exit 1; }
	@v=$$($(CARGO) --version | cut -d' ' -f2 | cut -d- -f1); \
	  [ "$$(printf '%s\n' $(MIN_RUST) "$$v" | sort -V | head -n 1)" = $(MIN_RUST) ] || { \
	  echo "cargo $$v is too old: $(MIN_RUST) or newer is needed, for example by  rustup update stable"; exit 1; }

need-cc:
	@command -v $(firstword $(CC)) >/dev/null 2>&1 || { \
	  echo 'no C compiler ($(CC)): install one with  apt-get install gcc libc6-dev  or  dnf install gcc'; exit 1; }

need-cxx:
	@command -v $(firstword $(CXX)) >/dev/null 2>&1 || { \
	  echo 'no C++ compiler ($(CXX)): install one with  apt-get install g++  or  dnf install gcc-c++'; exit 1; }

# Without an rlib among the crate types LTO holds for both artefacts of one build.
lib: need-cargo need-cc
	$(CARGO) build --release --lib
	@ln -sf libswiftnet.so $(LIB)/libswiftnet.so.0

examples: lib
	@mkdir -p $(TARGET)/examples-c
	@for name in $(EXAMPLES); do \
	  echo "$(CC) c_examples/$$name.c"; \
	  $(CC) $(HOST_CFLAGS) -o $(TARGET)/examples-c/$$name c_examples/$$name.c $(HOST_LDFLAGS) || exit 1; \
	done

run: examples
	@ADDR=$(ADDR) PORT=$(PORT) exec $(TARGET)/examples-c/basic_server

test: test-rust test-c test-asan test-valgrind

# Unit tests with debug assertions; documentation of the rules that hold the architecture.
test-rust: need-cargo need-cc
	$(CARGO) test --lib

test-c: lib need-cxx
	SWN_LIB_DIR=$(LIB) $(CARGO) test --release --test '*' --no-fail-fast

test-asan: lib need-cxx
	@if echo 'int main(void){return 0;}' | $(CC) -fsanitize=address,undefined -x c -o /dev/null - 2>/dev/null; \
	then set -x; SWN_LIB_DIR=$(LIB) SWN_TEST_MODE=asan $(CARGO) test --release --test c_abi --no-fail-fast; \
	else echo 'left out: the sanitizer tests, $(CC) has no -fsanitize=address (apt-get install libasan8 libubsan1)'; fi

test-valgrind: lib need-cxx
	@if command -v valgrind >/dev/null 2>&1; \
	then set -x; SWN_LIB_DIR=$(LIB) SWN_TEST_MODE=valgrind $(CARGO) test --release --test c_abi --no-fail-fast; \
	else echo 'left out: the valgrind tests, valgrind is missing (apt-get install valgrind)'; fi

header: need-cargo
	SWN_HEADER_WRITE=1 $(CARGO) test --release --test header

INSTALL_LIB = $(DESTDIR)$(PREFIX)/lib
INSTALL_INCLUDE = $(DESTDIR)$(PREFIX)/include

install: lib
	install -d $(INSTALL_LIB)/pkgconfig $(INSTALL_INCLUDE)
	install -m 755 $(LIB)/libswiftnet.so $(INSTALL_LIB)/libswiftnet.so.$(VERSION)
	ln -sf libswiftnet.so.$(VERSION) $(INSTALL_LIB)/libswiftnet.so.0
	ln -sf libswiftnet.so.0 $(INSTALL_LIB)/libswiftnet.so
	install -m 644 $(LIB)/libswiftnet.a $(INSTALL_LIB)/libswiftnet.a
	install -m 644 include/swiftnet.h $(INSTALL_INCLUDE)/swiftnet.h
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$${prefix}/lib|' -e 's|@INCLUDEDIR@|$${prefix}/include|' \
	    -e 's|@VERSION@|$(VERSION)|' bindings/pkgconfig/swiftnet.pc.in > $(INSTALL_LIB)/pkgconfig/swiftnet.pc

uninstall:
	rm -f $(INSTALL_LIB)/libswiftnet.so $(INSTALL_LIB)/libswiftnet.so.0 $(INSTALL_LIB)/libswiftnet.so.$(VERSION) \
	      $(INSTALL_LIB)/libswiftnet.a $(INSTALL_LIB)/pkgconfig/swiftnet.pc $(INSTALL_INCLUDE)/swiftnet.h

BENCH := $(TARGET)/bench
bench-drivers: lib
	@mkdir -p $(BENCH)
	$(CC) $(HOST_CFLAGS) -o $(BENCH)/bench-swiftnet benches/bench-swiftnet.c $(HOST_LDFLAGS)
	$(CC) $(HOST_CFLAGS) -o $(BENCH)/bench-epoll benches/bench-epoll.c -lm
	$(CC) $(HOST_CFLAGS) -o $(BENCH)/loadgen benches/loadgen.c -lm

bench: bench-drivers
	benches/run all
	benches/report

SOAK_MINUTES ?= 10
soak: lib need-cxx
	SWN_LIB_DIR=$(LIB) ci/soak $(SOAK_MINUTES)

check:
	.ci/run

clean:
	$(CARGO) clean
