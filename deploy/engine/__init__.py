"""From a Q/DQ file to an engine, on the machine that will run it. Main entry: `deploy.engine.build.build_engine`.

`driver` looks for a GPU before TensorRT is touched; `dialect` is the protocol behind which `trt8`, `trt10` and `trt11`
keep what differs between the generations; `inspector` reads back what the engine really runs in INT8.
"""
