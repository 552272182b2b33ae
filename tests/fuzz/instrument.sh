#!/bin/sh
# A RUSTC_WORKSPACE_WRAPPER: compiles the libraries of this workspace, and nothing else, with the counters that libFuzzer
# reads. What they depend on stays as every other build has it.
set -eu
compiler=$1
shift
case " $* " in
*" --crate-name segue_"*) ;;
*) exec "$compiler" "$@" ;;
esac
exec "$compiler" "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
	-Cllvm-args=-sanitizer-coverage-trace-compares
