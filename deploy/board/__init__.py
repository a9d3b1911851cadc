"""What runs on the board: build the engine, run it, compare, time, look at the device.

A bundle carries this folder and `CORE_FILES` as they are. They need numpy and TensorRT at most, and the syntax and the
standard library of Python 3.6 (tests/packaging/test_board.py); `edgeq engine` uses the same modules on the host.
"""
