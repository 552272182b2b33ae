#!/usr/bin/env bash
# Builds the fuzz targets and runs them, one after the other; `make fuzz` calls it with what was asked for.
#   fuzz.sh [TARGET]          every target, or this one, for FUZZ_SECONDS each
#   fuzz.sh TARGET FILE       one input once: what a find is replayed with
#   fuzz.sh TARGET FILE min   makes a find smaller
set -euo pipefail
cd "$(dirname "$0")/../.."

all=(pipeline expression worker-message coordinator-message runner-frame store csv model)
targets=("${all[@]}")
if [ -n "${1:-}" ]; then targets=("$1"); fi
input=${2:-}
seconds=${FUZZ_SECONDS:-60}
# Finds and grown corpora are kept between runs, outside the checkout.
work="${CARGO_TARGET_DIR:-target}/fuzz"

# Every limit is far above what an honest input takes.
declare -A longest=([pipeline]=8192 [expression]=4500 [worker-message]=8192 [coordinator-message]=8192 [runner-frame]=4096
	[store]=40000 [csv]=4096 [model]=20000)
declare -A beside=([pipeline]="coordinator/tests/bad-pipelines pipelines/examples")
flags=(-timeout=20 -rss_limit_mb=3072 -malloc_limit_mb=1024 -print_final_stats=1)

# The same selection of packages as everywhere, so that dependencies are not built anew; the wrapper makes counters in the
# libraries of this workspace alone.
bins=()
for target in "${targets[@]}"; do bins+=(--bin "fuzz-$target"); done
RUSTC_WORKSPACE_WRAPPER="$PWD/tests/fuzz/instrument.sh" \
	cargo build --workspace --locked --features segue-fuzz/fuzz "${bins[@]}"

# One thread, so that equal inputs take equal ways.
export POLARS_MAX_THREADS=1 RAYON_NUM_THREADS=1 SEGUE_LOG=off
for target in "${targets[@]}"; do
	program="${CARGO_TARGET_DIR:-target}/debug/fuzz-$target"
	mkdir -p "$work/corpus/$target" "$work/found"
	limits=("${flags[@]}" -max_len="${longest[$target]}" -artifact_prefix="$work/found/$target-")
	if [ "${3:-}" = min ]; then
		exec "$program" "${limits[@]}" -minimize_crash=1 -max_total_time="$seconds" -exact_artifact_path="$input.min" "$input"
	elif [ -n "$input" ]; then
		exec "$program" "${limits[@]}" "$input"
	fi
	words="tests/fuzz/words/$target.dict"
	[ ! -f "$words" ] || limits+=(-dict="$words")
	echo "== $target, $seconds s"
	# Of the log, what tells how far it is: not every input that reached something new.
	if ! "$program" "${limits[@]}" -max_total_time="$seconds" "$work/corpus/$target" "tests/fuzz/corpus/$target" \
		${beside[$target]:-} 2>&1 | sed -uE '/^#[0-9]+\s+(NEW|REDUCE|RELOAD)|^"|Recommended dictionary/d'; then
		echo "$target broke. Again: make fuzz TARGET=$target REPLAY=FILE, with the file that is named above" >&2
		exit 1
	fi
done
