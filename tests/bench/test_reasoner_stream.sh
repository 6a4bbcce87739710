#!/bin/bash
# What the shipped models learned from holds no problem of the calibration and test sets, and is right:
# tools/model/reasoner/check.py, with the standard library alone.
set -u
cd "$(dirname "$0")/../.." || exit 1
python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null || {
    echo "python3 of 3.9 or newer is not there"
    exit 77
}
PYTHONDONTWRITEBYTECODE=1 python3 tools/model/reasoner/check.py
