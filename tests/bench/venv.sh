# Sourced: sets $python to that of a virtual environment outside the repository that has $packages. STRATA_BENCH_VENV names it (default: ~/.cache/strata/bench-venv); what is missing is made and installed.
venv=${STRATA_BENCH_VENV:-$HOME/.cache/strata/bench-venv}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
python=$venv/bin/python
"$python" -m pip install --quiet --disable-pip-version-check $packages
