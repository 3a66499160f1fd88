"""`python -m benchmarks.downstream`."""

from benchmarks.downstream.run import main

main()
