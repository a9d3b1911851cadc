"""From a Q/DQ file to an engine, on the machine that will run it. Main entry: `deploy.engine.build.build_engine`.

The builder itself is in `deploy.board`, which bundles carry; here is what needs onnx, target cards and the manifest.
"""
