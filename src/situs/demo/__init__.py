"""The main job on embedded data."""

from situs.demo.demo import DemoResult, demo_config, run_demo

__all__ = ["DemoResult", "demo_config", "run_demo"]
