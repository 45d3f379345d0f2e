#!/usr/bin/env bash
# Training data on many pianos: bash make_data.sh DATA OUT (see README.md). Finished parts are kept.
# Needs numpy, scipy, soundfile, soxr, mido; for the sound fonts Debian's packages fluidsynth, fluid-soundfont-gm,
# musescore-general-soundfont-lossless, timgm6mb-soundfont, csound-soundfont and minuet-data.
set -euo pipefail
data=$1 out=$2 here=$(cd "$(dirname "$0")" && pwd)
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
pianos=salamander,headroom_close,headroom_decca,iowa_steinway,upright_kw,old_fb,indigo_upright,tonejs
fonts=fluid,fluid_bright,musescore,musescore_bright,musescore_mellow,generaluser,generaluser_bright,csound,csound_2,csound_3
held_out=splendid,cherry_upright,timgm,timgm_2
touch=(--dynamics 0.6,1.05 --damping 0.25,1.4)

part() { # NAME ARGUMENTS…: render what is not there yet
    [ -f "$out/$1/maestro-v3.0.0.csv" ] || python "$here/render.py" "$data" "$out/$1" "${@:2}"
}

part train_sampled --splits train --seconds 75 --seed 509 --sympathy=-36,-14 "${touch[@]}" --pianos $pianos
part train_unpedalled --splits train --performances 300 --seconds 60 --seed 504 "${touch[@]}" --unpedalled 1 --pianos $pianos
part train_fonts --splits train --performances 280 --seconds 60 --seed 609 --dynamics 0.5,1.05 --pianos $fonts
part validation --splits validation --performances 60 --seconds 60 --seed 77 --pianos $held_out
part validation_ends --splits validation --performances 60 --seconds 60 --seed 78 --damping 0.25,1.4 --unpedalled 0.5 --pianos $held_out
trees=(a="$out/train_sampled" b="$out/train_fonts" v="$out/validation")
maps=$data/maps/maestro/maestro-v3.0.0
if [ -d "$maps" ]; then
    [ -f "$out/maps_varied/maestro-v3.0.0.csv" ] || python "$here/vary.py" "$maps" "$out/maps_varied" --without AkPnStgb --seed 15
    trees+=(m="$maps" w="$out/maps_varied")
fi
python "$here/join.py" "$out/tree" "${trees[@]}" --hold-out AkPnStgb
python "$here/join.py" "$out/tree_unpedalled" d="$out/train_unpedalled"
