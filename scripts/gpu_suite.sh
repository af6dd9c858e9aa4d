#!/usr/bin/env bash
# Everything that only a GPU can say of memprof, in parts of less than eight minutes each.
#
#   scripts/gpu_suite.sh OUTDIR [PART ...]     run these parts, or all of them in their order
#   scripts/gpu_suite.sh --list                the parts, how many minutes each may take, and what it is for
#
#   --device cpu     the same parts at small sizes: a rehearsal
#   --most N         only the first N methods of each list [default: all; 2 on a CPU]
#   --work DIR       where the runs are kept while they grow [default: OUTDIR/work]
#   --dry-run        print the commands and run none
#   --select DIR TO  only the last step: the files of DIR that may go, into the folder TO
#
# It needs a checkout and, on the path of python3 (or of $PYTHON), memprof's dependencies. A part leaves at most eight
# files in OUTDIR/PART, and running it again goes on where it stopped: after Ctrl-C, after `timeout`, after a crash. The
# exit code is 1 if a command failed in another way than by a cell that did not fit or did not finish.
#
# How the parts were cut: the memory of every cell is measured in a process of its own, which takes 6 to 10 s (import
# torch, set up the GPU, a few steps), so that 33 methods are five minutes at 60m and 350m; nothing is timed there
# (`--rounds 0`). Periodic work makes the difference at larger sizes: an eigenvector problem of 1024, 2048 or 4096 rows is
# taken to need 15, 40 or 200 ms, there are 168 (7b: 224) of them to a refresh, and a cell refreshes four times: 10, 27
# and 180 s. In the parts on speed all methods of a command share a process: a step of 36,864 tokens is taken as 0.2 s at
# 350m, one of 294,912 as 1.5 s, and a race has six rounds, the fewest of which an interval of 95 % can be made. A race
# that is cut short begins anew when the part is run again, so that each is to be over in five minutes even where an
# eigenvector problem of 1024 rows needs 25 ms. None of these times has been seen yet; `--timeout` ends a cell that takes
# far longer, and its record says so. What a command has finished is kept.
set -euo pipefail

readonly MOST_FILES=8 MOST_BYTES=16000000
readonly PARTS=(gpu memory-60m memory-350m memory-1b memory-1b-merged memory-1b-projected memory-7b
    memory-7b-galore memory-7b-galore-mini speed-24 speed-24-mini speed-48 speed-48-mini speed-paper speed-paper-variants
    speed-gap50 rest)

# Every method once. Of the first three the allocator's history is kept at each size, and of all at 7b.
readonly HISTORIES=(adamw galore relora)
readonly DENSE=(adafactor adam-mini adamw-8bit sgd lion came muon)
readonly LOW_RANK=(lora low-rank dora pissa mora sltrain loqt)
readonly MERGED=(redora repissa reloqra remora)
readonly SKETCHED=(apollo apollo-mini flora grass microadam)
readonly PROJECTED=(galore-mini galore-dynamics galore-ef galore-dynamics-ef q-galore adamem fira)

main() {
    local -a asked=()
    device=cuda dry='' work='' out='' most=''
    while (($#)); do
        case $1 in
        --device | --most | --work) take "$@" && shift ;;
        --dry-run) dry=yes ;;
        --list) list && return ;;
        --select) (($# == 3)) || usage '--select needs two folders' && select_files "$2" "$3" && return ;;
        -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && return ;;
        -*) usage "unknown option $1" ;;
        *) if [[ -z $out ]]; then out=$(absolute "$1"); else asked+=("$1"); fi ;;
        esac
        shift
    done
    check "${asked[@]}"
    ((${#asked[@]})) || asked=("${PARTS[@]}")
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    cd "$root"
    export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
    python=${PYTHON:-python3} work=${work:-$out/work} child='' log=/dev/null failed=()
    [[ $device == cpu || -n $dry ]] || has_gpu
    trap 'stop 130' INT
    trap 'stop 143' TERM HUP
    local each
    for each in "${asked[@]}"; do
        begin "$each"
        "$each"
        finish
    done
    ((${#asked[@]} < ${#PARTS[@]})) || whole
    ((${#failed[@]} == 0)) || { printf 'failed: %s\n' "${failed[@]}" && return 1; }
}

check() { # PART...: that the options make sense
    [[ -n $out ]] || usage 'OUTDIR is missing'
    [[ $device == cuda || $device == cpu ]] || usage "unknown device $device; cuda or cpu"
    [[ $device == cuda ]] || most=${most:-2}
    most=${most:-99}
    [[ $most =~ ^[1-9][0-9]?$ ]] || usage "--most $most is no number of methods"
    local each
    for each in "$@"; do [[ " ${PARTS[*]} " == *" $each "* ]] || usage "unknown part $each; --list has them"; done
}

has_gpu() {
    "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' && return
    printf 'gpu_suite.sh: torch sees no CUDA device here; --device cpu rehearses the parts without one\n' >&2
    exit 4
}

take() { # OPTION VALUE
    (($# > 1)) || usage "$1 needs a value"
    case $1 in
    --device) device=$2 ;;
    --most) most=$2 ;;
    --work) work=$(absolute "$2") ;;
    esac
}

usage() {
    printf 'gpu_suite.sh: %s\n' "$1" >&2
    exit 2
}

absolute() { case $1 in /*) printf %s "$1" ;; *) printf %s "$PWD/$1" ;; esac }

list() {
    while read -r name minutes what; do printf '%-21s %2s min  %s\n' "$name" "$minutes" "$what"; done <<'LIST'
gpu 2 the tests that need a GPU; what the device copies and multiplies a second
memory-60m 6 all 33 methods at 60m, batch 48: predicted and measured
memory-350m 7 all 33 methods at 350m, batch 48
memory-1b 6 full rank and low rank at 1b, batch 8
memory-1b-merged 6 adapters that are merged, and sketches, at 1b
memory-1b-projected 7 projected gradients at 1b
memory-7b 5 of the core eight at 7b, batch 1 of 2,048 tokens, those without an SVD
memory-7b-galore 6 GaLore at 7b, whose refresh takes minutes
memory-7b-galore-mini 6 GaLore-mini at 7b, likewise
speed-24 5 AdamW, Adam-mini, GaLore and ReLoRA at ranks 256, 128 and 64; 350m, micro-batch 24
speed-24-mini 4 GaLore-mini at these ranks beside AdamW, the same way
speed-48 5 those of speed-24 at micro-batch 48
speed-48-mini 4 those of speed-24-mini at micro-batch 48
speed-paper 7 GaLore, GaLore-mini, GaLore-dynamics and Adam-mini beside AdamW; 350m, micro-batch 48, accumulation 24, gap 200
speed-paper-variants 7 the other GaLore variants beside AdamW, the same way
speed-gap50 6 all of these at gap 50 without accumulation
rest 6 explain; sequence length, checkpointing, loss chunks, fp32; optimizer steps beside PyTorch's own
LIST
}

# ---- the parts

gpu() {
    local -a files
    mapfile -t files < <(grep -rlE 'mark\.gpu' tests --include='*.py' | sort)
    step tests "$python" -m pytest -m gpu -q -rs -p no:cacheprovider "${files[@]}"
    [[ -n $dry ]] || tail -n 2 "$log" | head -n 1
    step ceilings "$python" -m memprof doctor --ceilings --device "$device"
}

memory-60m() { sized 60m 48 256 && memory histories dense low-rank merged sketched projected; }
memory-350m() { sized 350m 48 256 && memory histories dense low-rank merged sketched projected; }
memory-1b() { sized 1b 8 256 && memory histories dense low-rank; }
memory-1b-merged() { sized 1b 8 256 && memory merged sketched; }
memory-1b-projected() { sized 1b 8 256 && memory projected; }
memory-7b() { sized 7b 1 2048 && recorded core adamw adafactor adam-mini low-rank lora relora; }
memory-7b-galore() { sized 7b 1 2048 && recorded galore galore; }
memory-7b-galore-mini() { sized 7b 1 2048 && recorded galore-mini galore-mini; }

# As in table 2 of "Approximations may be all you need": 144 sequences to a step of each of its eight GPUs.
speed-24() { sized 350m 24 256 && ranks 6 galore relora adam-mini; }
speed-24-mini() { sized 350m 24 256 && ranks 6 galore-mini; }
speed-48() { sized 350m 48 256 && ranks 3 galore relora adam-mini; }
speed-48-mini() { sized 350m 48 256 && ranks 3 galore-mini; }
# Its whole batch of 1,152 on one GPU, each refresh an exact one.
speed-paper() { sized 350m 48 256 && paper 24 200 galore galore-mini galore-dynamics; }
speed-paper-variants() { sized 350m 48 256 && paper 24 200 galore-ef galore-dynamics-ef q-galore; }
speed-gap50() { sized 350m 48 256 && paper 1 50 galore galore-mini galore-dynamics galore-ef galore-dynamics-ef q-galore; }

rest() {
    sized 350m 8 256
    step 'explain galore' "$python" -m memprof explain galore "${SIZE[@]}"
    compare sequences "${BRIEF[@]}" --seq-len "$(pick 128,512,1024,2048 32)" -- adamw galore
    compare checkpointed "${BRIEF[@]}" --checkpointing -- adamw galore
    compare chunked "${BRIEF[@]}" --loss-chunks "$(pick 8 2)" --clip-grad-norm 1 -- adamw galore
    compare fp32 "${BRIEF[@]}" --dtype fp32 -- adamw galore
    local -a few=() && [[ $device == cuda ]] || few=(--rounds 2 --only torch_adamw)
    step 'optimizer steps' "$python" benchmarks/steps.py --device "$device" --model "$(pick 350m 9m)" "${few[@]}"
}

# ---- what the parts are made of

memory() { # FAMILY...: each in a command of its own
    local family
    for family in "$@"; do
        case $family in
        histories) recorded histories "${HISTORIES[@]}" ;;
        dense) compare dense "${BRIEF[@]}" -- "${DENSE[@]}" ;;
        low-rank) compare low-rank "${BRIEF[@]}" -- "${LOW_RANK[@]}" ;;
        merged) compare merged "${BRIEF[@]}" -- "${MERGED[@]}" ;;
        sketched) compare sketched "${BRIEF[@]}" -- "${SKETCHED[@]}" ;;
        projected) compare projected "${BRIEF[@]}" -- "${PROJECTED[@]}" ;;
        esac
    done
}

recorded() { # RUN METHOD...: with the allocator's history of each
    local run=$1
    shift
    compare "$run" "${BRIEF[@]}" --histories "$work/$part/allocator" -- "$@"
}

ranks() { # ACCUMULATION METHOD...: beside AdamW, at each rank where a method has one
    local accumulation=$1
    shift
    raced 18
    compare ranks "${RACE[@]}" --accumulation "$(pick "$accumulation" 2)" --rank "$(pick 256,128,64 32,16)" -- adamw "$@"
}

paper() { # ACCUMULATION GAP METHOD...: side by side with AdamW and Adam-mini
    local accumulation=$1 gap=$2
    shift 2
    raced $((accumulation > 1 ? 6 : 60))
    compare paper "${RACE[@]}" --accumulation "$(pick "$accumulation" $((accumulation > 1 ? 2 : 1)))" \
        --rank "$(pick 256 32)" -- adamw "${@/%/:update_gap=$gap}" adam-mini
}

raced() { # STEPS: how long a race is; the windows of a round take more than half a second each
    RACE=(--steps "$(pick "$1" 2)" --rounds "$(pick 6 2)" --verbose)
}

sized() { # MODEL BATCH TOKENS: the size of a part, or of its rehearsal
    SIZE=(--model "$1" --batch-size "$2" --seq-len "$3")
    BRIEF=(--rounds 0 --verbose)
    [[ $device == cpu ]] || return 0
    SIZE=(--model 9m --num-layers 1 --vocab-size 512 --batch-size 1 --seq-len 16)
}

pick() { if [[ $device == cuda ]]; then printf %s "$1"; else printf %s "$2"; fi; }

compare() { # RUN OPTION... -- METHOD...: measure what is missing in the part's run of that name
    local run=$1 method
    local -a options=() methods=()
    shift
    while [[ $1 != -- ]]; do
        options+=("$1")
        shift
    done
    shift
    for method in "${@:1:$most}"; do methods+=(--method "$method"); done
    runs+=("$work/$part/$run")
    step "$run" "$python" -m memprof compare "${SIZE[@]}" "${options[@]}" "${methods[@]}" --measure --device "$device" \
        --timeout 400 -o "$work/$part/$run" --resume
}

begin() { # PART
    part=$1 runs=()
    [[ -z $dry ]] || return 0
    mkdir -p "$work/$part" "$out/$part"
    log=$out/$part/log.txt
    printf '\n== %s, %s\n' "$part" "$device" | tee -a "$log"
}

step() { # NAME COMMAND...: its words go into the log; how it ended is said, and the part goes on
    local name=$1 code=0 began=$SECONDS
    shift
    if [[ -n $dry ]]; then printf '%s\t' "$part" && printf '%q ' "$@" && printf '\n' && return; fi
    { printf '\n$' && printf ' %q' "$@" && printf '\n'; } >>"$log"
    "$@" >>"$log" 2>&1 </dev/null &
    child=$!
    wait "$child" || code=$?
    child=''
    say "$part: $name took $((SECONDS - began)) s$(means "$code")"
    collect
}

means() { # EXIT CODE: what is to be said of it; 3 is a cell that did not fit or did not finish, which is a result
    case $1 in
    0) ;;
    3) printf ', and some cells did not finish' ;;
    *) printf ', FAILED with exit code %s; its last words:\n%s' "$1" "$(tail -n 4 "$log")" ;;
    esac
}

say() {
    printf '%s\n' "$1" | tee -a "$log"
    [[ $1 != *FAILED* ]] || failed+=("${1%%; its last*}")
}

finish() { # tables and charts of all that the part measured, and the table that it is for
    [[ -z $dry ]] || return 0
    local shown=$work/$part/shown.txt
    stored
    if ((${#kept[@]})); then
        rm -rf "$work/$part/report"
        "$python" -m memprof report "${kept[@]}" -o "$work/$part/report" --prediction >"$shown" 2>>"$log" ||
            say "$part: FAILED to hold the measurements against their predictions"
        case $part in
        speed-*) "$python" -m memprof report "${kept[@]}" --html "$work/$part/page.html" --force >"$shown" 2>>"$log" ;;
        esac
        tee -a "$log" <"$shown"
    elif ((${#runs[@]} == 0)); then
        tail -n 40 "$log"
    fi
    collect
}

whole() { # one table of every size
    local -a kept=() && local file
    for file in "$out"/memory-*/records.jsonl; do [[ ! -s $file ]] || kept+=("$file"); done
    [[ -n $dry ]] || ((${#kept[@]} == 0)) || "$python" -m memprof report "${kept[@]}" --prediction
}

stored() { # the part's runs that hold a record
    kept=()
    local run
    for run in "${runs[@]}"; do [[ ! -s $run/records.jsonl ]] || kept+=("$run"); done
}

collect() { # what there is by now, into OUTDIR/PART
    local file gathered=$work/$part/gathered
    local -a kept=()
    mkdir -p "$gathered"
    stored
    ((${#kept[@]} == 0)) || cat "${kept[@]/%//records.jsonl}" >"$gathered/records.jsonl"
    [[ ! -d $work/$part/allocator ]] || tar -czf "$gathered/histories.tar.gz" -C "$work/$part" allocator
    for file in prediction.md prediction.csv table.md agreement.png "$(chart)"; do
        [[ ! -f $work/$part/report/$file ]] || cp "$work/$part/report/$file" "$gathered/"
    done
    select_files "$gathered" "$out/$part" | tee -a "$log"
}

chart() { case $part in speed-*) printf tradeoff.png ;; *) printf memory.png ;; esac }

select_files() { # FROM TO: copy what is not too large and not too much, the log counted in; name what is left out
    local file count=1 size
    mkdir -p "$2"
    for file in "$1"/*; do
        [[ -f $file ]] || continue
        size=$(stat -c %s "$file")
        if ((size > MOST_BYTES)); then
            printf 'left out: %s, of %s bytes; %s at most\n' "${file##*/}" "$size" "$MOST_BYTES"
        elif ((++count > MOST_FILES)); then
            printf 'left out: %s, as %s files are there already\n' "${file##*/}" "$MOST_FILES"
        else
            cp "$file" "$2/"
        fi
    done
}

stop() { # EXIT CODE: end the command that runs, which keeps what had finished, and leave that in OUTDIR/PART
    trap '' INT TERM HUP
    if [[ -n $child ]]; then
        sleep 1 # a signal to the whole group has reached it already, and a second one is no help
        [[ $(jobs -rp) != "$child" ]] || kill -TERM "$child"
        wait "$child" || true
        collect
    fi
    say "$part: stopped; run it again to go on"
    exit "$1"
}

main "$@"
