#!/usr/bin/env bash
# Convert Debian's openclipart-png, 6,900 images of every size and mode, as a real and messy folder:
# what is no image, giant or too small must be skipped and counted, and what is written must be whole.
# usage: convert_openclipart.sh DEST.zip [options of pggan-fast data convert, such as --resolution 64 --labels folders]
# Needs Debian's or Ubuntu's apt-get and dpkg, and 131 MB of downloads; PYTHON names the Python that has pggan_fast.
set -euo pipefail

dest=${1:?usage: convert_openclipart.sh DEST.zip [OPTION...]}
shift
[[ $# -gt 0 ]] || set -- --resolution 64 --labels folders
python=${PYTHON:-python3}

for tool in apt-get dpkg; do
    command -v -- "$tool" >/dev/null || { echo "$0: no $tool here: this is for Debian and its kin" >&2; exit 1; }
done

folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
(cd -- "$folder" && apt-get download openclipart-png) >&2
dpkg -x "$folder"/openclipart-png_*.deb "$folder/unpacked"

"$python" -m pggan_fast.cli data convert --source "$folder/unpacked/usr/share/openclipart/png" --dest "$dest" "$@"
"$python" -m pggan_fast.cli data verify "$dest"
