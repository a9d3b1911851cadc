from deploy.cards import load_card as load_card
from deploy.compare import compare_models as compare_models
from deploy.engine.build import build_engine as build_engine
from deploy.estimate import estimate_latency as estimate_latency
from edgeq.core.errors import EdgeqError as EdgeqError
from edgeq.core.progress import Progress as Progress
from edgeq.core.samples import SampleSet as SampleSet
from edgeq.graph.lint import lint as lint
from edgeq.pipeline import BuildOptions as BuildOptions
from edgeq.pipeline import BuildResult as BuildResult
from edgeq.pipeline import Job as Job
from edgeq.pipeline import build as build
from edgeq.pipeline import make_options as make_options
from edgeq.pipeline import plan_build as plan_build
from edgeq.pipeline import prepare as prepare
from edgeq.pipeline import run_build as run_build
from edgeq.pipeline import run_explain as run_explain
from edgeq.pipeline import run_synth as run_synth
from edgeq.pipeline import run_weight_only as run_weight_only
from edgeq.report.builds import read_build as read_build
from edgeq.report.page import render_builds as render_builds
from edgeq.teacher.export import export_module as export_module

__version__: str
