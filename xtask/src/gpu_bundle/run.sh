#!/bin/sh
# Checks and measures this project on an NVIDIA GPU. The machine needs a driver for CUDA 13, and
# CUDA's libraries, for example by `pip install torch`. With PyTorch and diffusers, it is compared
# with them. It needs tar and xz. Results are printed and written to results.txt, errors to errors.txt.
cd "$(dirname "$0")" || exit 1
python=${PYTHON:-python3}
tar -xJf programs.tar.xz || exit 1

# The libraries that come with PyTorch, for machines without the CUDA toolkit.
wheels=$($python -c 'import glob, site
folders = site.getsitepackages() + [site.getusersitepackages()]
print(":".join(f for s in folders for f in glob.glob(s + "/nvidia/*/lib")))' 2>/dev/null)
export LD_LIBRARY_PATH="$wheels${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"

# Without the driver or CUDA's libraries, this says which one is missing.
./diffusion --version || exit 1

# The median of the last five of eight runs, or a dash: median WORKER JOB
median() {
    answers=$(for _ in 1 2 3 4 5 6 7 8; do echo "$2"; done | $1 2>>errors.txt)
    if [ "$(echo "$answers" | wc -l)" -eq 8 ]; then
        echo "$answers" | tail -n 5 | sort -n | sed -n 3p
    else
        echo -
    fi
}

# The memory of the GPU in MiB that a worker holds after two runs, or a dash: memory WORKER JOB
memory() {
    rm -f answers
    mkfifo jobs
    $1 <jobs >answers 2>>errors.txt &
    worker=$!
    exec 3>jobs
    printf '%s\n%s\n' "$2" "$2" >&3
    while kill -0 $worker 2>/dev/null && [ "$(wc -l <answers)" -lt 2 ]; do sleep 1; done
    nvidia-smi --query-compute-apps=pid,used_memory --format=csv,noheader,nounits |
        sed -n "s/^$worker, *//p" | grep . || echo -
    exec 3>&-
    wait $worker
    rm -f jobs answers
}

report() {
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader

    echo; echo "Golden numbers on the GPU:"
    DIFFUSION_GOLDEN_DIR=numbers DIFFUSION_GOLDEN_DEVICE=cuda ./golden golden_simple_unet \
        golden_unet2d golden_adamw golden_ema --test-threads 1 >golden.txt 2>&1 || touch failed
    grep -E '^test |differs' golden.txt || cat golden.txt

    echo; echo "Mean loss of steps 151 to 200 of a training with batches of 64:"
    for settings in "" "cuda" "cuda bf16"; do
        printf '%-12s %s\n' "${settings:-cpu}" \
            "$(echo 'loss 64 200' | ./diffusion-bench $settings 2>>errors.txt)"
    done

    echo; echo "Training and sampling with the program:"
    ./diffusion --device cuda train --steps 200 --run-dir run 2>&1 | tail -n 3
    ./diffusion --device cuda sample --run run --num 64 --grid digits.png 2>&1 | tail -n 2

    echo; echo "Milliseconds, median of five; PyTorch with channels last:"
    printf '%-20s %10s %10s' job f32 bf16
    printf ' %14s' "PyTorch, f32" "compiled, f32" "PyTorch, bf16" "compiled, bf16"
    echo
    while read -r job; do
        printf '%-20s %10s %10s' "$job" "$(median "./diffusion-bench cuda" "$job")" \
            "$(median "./diffusion-bench cuda bf16" "$job")"
        for settings in "eager channels_last f32" "compile channels_last f32" \
            "eager channels_last bf16" "compile channels_last bf16"; do
            printf ' %14s' "$(median "$python pytorch.py $settings 2 cuda" "$job")"
        done
        echo
    done <jobs.txt

    echo; echo "Memory of the GPU after training steps, MiB:"
    for job in "train 64" "train 128 cifar10"; do
        printf '%-20s %8s, PyTorch %8s\n' "$job" "$(memory "./diffusion-bench cuda" "$job")" \
            "$(memory "$python pytorch.py eager channels_last f32 2 cuda" "$job")"
    done
}

rm -rf run failed errors.txt jobs answers
report | tee results.txt
[ ! -e failed ]
