# Sourced by demo.sh and test.sh: goes to the root of the repository and provides a virtual environment there.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

# install EXTRAS [oldest]: makes .venv if it is missing and installs `.[EXTRAS]` into it, unless that is what it
# holds; with "oldest" .venv-oldest, with the lowest version that setup.cfg allows of everything it names.
install() {
    local python="${PYTHON:-python3}" extras="$1" venv=".venv${2:+-$2}" floors=() wanted stamp
    stamp="$venv/.installed-$extras"
    if [ ! -x "$venv/bin/pip" ]; then
        if ! command -v "$python" >/dev/null; then
            echo "No '$python' here. Install Python 3.11 or newer, or name one: PYTHON=/path/to/python bash $0" >&2
            exit 1
        fi
        if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
            echo "Python 3.11 or newer is needed; '$python' is $("$python" --version 2>&1)." \
                "Name a newer one: PYTHON=/path/to/python bash $0" >&2
            exit 1
        fi
        echo "== making $venv with $("$python" --version)"
        "$python" -m venv "$venv"
    fi
    wanted="$PWD $(cat setup.cfg setup.py kfisher/version.py | cksum)"
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        if [ -n "${2:-}" ]; then
            sed -nE 's/^    ([a-z0-9_-]+)(\[[a-z]+\])?>=([0-9.]+).*/\1==\3/p' setup.cfg >"$venv/floors.txt"
            floors=(--constraint "$venv/floors.txt")
        fi
        echo "== installing .[$extras] (TensorFlow is large; a first time takes minutes)"
        # By PEP 517, as the older way to install in place finds only one of the two folders that setup.py names.
        "$venv/bin/python" -m pip install -qq --disable-pip-version-check --use-pep517 --editable ".[$extras]" \
            ${floors[@]+"${floors[@]}"} # an empty array is unset to the bash of macOS
        echo "$wanted" >"$stamp"
    fi
}
