"""How a script runs for a user of this package, and for a stranger to it, who has `trust_remote_code` alone.

subprocess.run([sys.executable, *BY_REMOTE_CODE, script, …])
"""

RUN = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
BY_PACKAGE = ["-c", f"import modeling_deepspeech2; {RUN}"]
# `-I` leaves the current folder and PYTHONPATH out, None hides an installation.
BY_REMOTE_CODE = ["-I", "-c", f"import sys; sys.modules['modeling_deepspeech2'] = None; {RUN}"]
