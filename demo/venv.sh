# For scripts to source, in the project's folder: sets `python` to one that has the demo's packages, installed into an
# environment of their own, which is made again when the list changes.
demo_venv=demo/.work/venv
if ! cmp -s demo/requirements.txt "$demo_venv/installed.txt"; then
    echo "demo: installing the load driver's packages (demo/requirements.txt) into $demo_venv"
    rm -rf "$demo_venv"
    python3 -m venv "$demo_venv"
    "$demo_venv/bin/python" -m pip install --quiet --disable-pip-version-check -r demo/requirements.txt
    cp demo/requirements.txt "$demo_venv/installed.txt"
fi
python="$demo_venv/bin/python"
