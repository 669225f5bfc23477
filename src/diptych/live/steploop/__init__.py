"""The step loop: the engine's thread beside a worker's machine.

loop.py       the thread, its orders, its one answer to each run
stepper.py    one run: steps until a finish, `EndRun` or the last step
stream.py     what a request's attempt and its sequences are to the loop
planning.py   which spans go to the engine together
stopping.py   stop strings over bytes
"""
