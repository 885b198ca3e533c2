"""Programs that a sandbox must survive, one property each: what they do, and the verdicts that are right.

A case may need several steps; all but the last must end `ok`. `{outside}` is a file of the test's own, outside.
"""

from __future__ import annotations

from rstar.protocols import ExecutionVerdict as V

Case = tuple[tuple[str, ...] | str, set[V]]

EXITS: dict[str, Case] = {
    "sys_exit": ("import sys\nsys.exit()", {V.ERROR}),
    "sys_exit_zero": ("import sys\nsys.exit(0)", {V.ERROR}),
    "exit_builtin": ("exit()", {V.ERROR}),
    "quit_builtin": ("quit(1)", {V.ERROR}),
    "system_exit_raised": ("raise SystemExit('done')", {V.ERROR}),
    "keyboard_interrupt_raised": ("raise KeyboardInterrupt", {V.ERROR}),
    "generator_exit_raised": ("raise GeneratorExit", {V.ERROR}),
    "os_exit": ("import os\nos._exit(0)", {V.ERROR}),
    "os_exit_removed_then_more": (
        ("import os\nos._exit = None\nimport sys\nsys.exit = None", "raise SystemExit"),
        {V.ERROR},
    ),
    "abort": ("import os\nos.abort()", {V.ERROR}),
    "segfault": ("import ctypes\nctypes.string_at(0)", {V.ERROR}),
    "illegal_free": ("import ctypes\nctypes.CDLL(None).free(ctypes.c_void_p(12345))", {V.ERROR}),
    "divide_trap_in_c": (
        "import ctypes\nctypes.CDLL(None).raise_ if False else ctypes.string_at(1)",
        {V.ERROR},
    ),
    "c_exit": ("import ctypes\nctypes.CDLL(None).exit(0)", {V.ERROR}),
    "exit_by_atexit": ("import atexit, sys\natexit.register(print, 'x')\nsys.exit(3)", {V.ERROR}),
    "exception_whose_text_raises": (
        "class E(Exception):\n    def __str__(self): raise ValueError\nraise E",
        {V.ERROR},
    ),
    "exception_whose_text_loops": (
        "class E(Exception):\n    def __str__(self):\n        while True: pass\nraise E",
        {V.TIMEOUT},
    ),
    "exception_whose_text_exits": (
        "import os\nclass E(Exception):\n    def __str__(self): os._exit(0)\nraise E",
        {V.ERROR},
    ),
    "exception_with_a_huge_text": ("raise ValueError('x' * 10**7)", {V.ERROR}),
    "exception_group": ("raise ExceptionGroup('many', [ValueError(1), OSError(1, 'x')])", {V.ERROR}),
    "syntax_error": ("x = = 1", {V.ERROR}),
    "null_byte_in_code": ("x = 1\0", {V.ERROR}),
    "lone_surrogate_in_code": ("x = '\ud800'\nprint(len(x))", {V.ERROR}),
    "nested_brackets": ("(" * 5000 + ")" * 5000, {V.ERROR, V.MEMORY}),
    "nested_unary_operators": ("x = " + "-" * 30_000 + "1", {V.ERROR, V.MEMORY}),
    "nested_lambdas": ("f = " + "lambda: " * 8000 + "1", {V.ERROR, V.MEMORY}),
    "very_long_expression": ("x = " + "+".join(["1"] * 20_000), {V.OK, V.ERROR, V.MEMORY}),
    "input": ("x = input()", {V.ERROR}),
    "unawaited_await": ("await x", {V.ERROR}),
    "missing_module": ("import no_such_module", {V.ERROR}),
    "module_that_is_not_offered": ("import torch", {V.ERROR}),
    "the_sandbox_itself_is_not_importable": ("import rstar.sandbox", {V.ERROR}),
}

TIME: dict[str, Case] = {
    "endless_loop": ("while True: pass", {V.TIMEOUT}),
    "endless_loop_that_swallows_everything": (
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        {V.TIMEOUT},
    ),
    "endless_loop_in_finally": ("try:\n    1 / 0\nfinally:\n    while True: pass", {V.TIMEOUT}),
    "power_in_c": ("x = 7 ** (7 ** 9)", {V.TIMEOUT, V.MEMORY}),
    "power_of_powers": ("x = 10 ** 10 ** 8", {V.TIMEOUT, V.MEMORY}),
    "factorial_in_c": ("import math\nmath.factorial(5 * 10**6)", {V.TIMEOUT}),
    "digits_in_c": ("s = str(3 ** 10**7)", {V.TIMEOUT}),
    "sum_of_a_huge_range_in_c": ("sum(range(10**11))", {V.TIMEOUT}),
    "deque_from_endless_iterator": (
        "import collections, itertools\ncollections.deque(itertools.count(), 0)",
        {V.TIMEOUT},
    ),
    "catastrophic_regex": ("import re\nre.match(r'(a+)+$', 'a' * 50 + 'b')", {V.TIMEOUT}),
    "find_in_c": ("s = 'a' * 10**6\nwhile True: s.find('a' * 5000 + 'b')", {V.TIMEOUT}),
    "sort_with_endless_comparison": ("class A:\n    def __lt__(s, o):\n        while True: pass\nsorted([A(), A()])", {V.TIMEOUT}),
    "numpy_in_c": ("import numpy as np\na = np.ones((1500, 1500))\nwhile True: a = a @ a * 0", {V.TIMEOUT}),
    "sympy_that_does_not_end": ("from sympy import *\nfactorint(10**80 + 129 * 10**37 + 7, limit=None)\nwhile True: nextprime(10**500)", {V.TIMEOUT}),
    "sleep": ("import time\ntime.sleep(60)", {V.TIMEOUT}),
    "sleep_on_stdin_and_select": ("import select\nselect.select([], [], [], 60)", {V.TIMEOUT}),
    "pause": ("import signal\nsignal.pause()", {V.TIMEOUT}),
    "ignored_signals": (
        "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: pass",
        {V.TIMEOUT},
    ),
    "blocked_signals": (
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\nwhile True: pass",
        {V.TIMEOUT},
    ),
    "own_alarm": ("import signal\nsignal.alarm(1)\nwhile True: pass", {V.ERROR, V.TIMEOUT}),
    "endless_compilation": ("exec('x = ' + '(' * 90 + '1' + ')' * 90)\nwhile True: compile('x=1', 'x', 'exec')", {V.TIMEOUT}),
    "endless_hash": ("class A:\n    def __hash__(s):\n        while True: pass\n{A()}", {V.TIMEOUT}),
    "endless_destructor": ("class A:\n    def __del__(s):\n        while True: pass\na = A()\ndel a", {V.TIMEOUT}),
}  # fmt: skip

MEMORY: dict[str, Case] = {
    "list": ("x = [0] * 10**9", {V.MEMORY}),
    "growing_list": ("x = []\nwhile True: x.append(bytes(10**7))", {V.MEMORY}),
    "bytearray": ("x = bytearray(2 * 10**9)", {V.MEMORY}),
    "doubling_string": ("s = 'a'\nwhile True: s += s", {V.MEMORY, V.TIMEOUT}),
    "growing_dict": ("d = {}\ni = 0\nwhile True:\n    d[i] = (i, str(i) * 9); i += 1", {V.MEMORY, V.TIMEOUT}),
    "numpy": ("import numpy as np\nx = np.ones(10**9)", {V.MEMORY}),
    "mmap": ("import mmap\nx = mmap.mmap(-1, 2 * 10**9)", {V.MEMORY}),
    "memory_error_swallowed_in_a_loop": (
        "x = []\nwhile True:\n    try: x.append(bytearray(10**7))\n    except MemoryError: pass",
        {V.TIMEOUT},
    ),
    "recursion": ("def f(): return f()\nf()", {V.ERROR}),
    "recursion_without_limit": (
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(): return f() + 1\nf()",
        {V.ERROR, V.MEMORY, V.TIMEOUT},
    ),
    "recursion_in_c": (
        "import sys\nsys.setrecursionlimit(10**9)\nx = []\nfor _ in range(10**6): x = [x]\nrepr(x)",
        {V.ERROR, V.MEMORY, V.TIMEOUT},
    ),
    "deep_destruction": ("x = None\nfor _ in range(10**5): x = (x,)\ndel x\nprint(1)", {V.OK}),
    "raised_memory_limit": (
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
        {V.ERROR, V.BLOCKED},
    ),
    "memfd": ("import os\nos.memfd_create('x')", {V.BLOCKED}),
    "shared_memory": (
        "from multiprocessing import shared_memory\nshared_memory.SharedMemory(create=True, size=10**6)",
        {V.BLOCKED},
    ),
    "memory_of_a_whole_trajectory": (
        ("x = bytearray(150 * 2**20)", "y = bytearray(150 * 2**20)"),
        {V.MEMORY},
    ),
}

FLOODS: dict[str, Case] = {
    "print_in_a_loop": ("while True: print('x' * 1000)", {V.OUTPUT_LIMIT}),
    "one_huge_print": ("print('x' * 10**7)", {V.OUTPUT_LIMIT}),
    "print_that_swallows_everything": (
        "while True:\n    try:\n        while True: print('x' * 1000)\n    except BaseException: pass",
        {V.OUTPUT_LIMIT},
    ),
    "stderr": ("import sys\nwhile True: print('x' * 1000, file=sys.stderr)", {V.OUTPUT_LIMIT}),
    "stdout_buffer": ("import sys\nwhile True: sys.stdout.buffer.write(b'x' * 1000)", {V.OUTPUT_LIMIT}),
    "raw_descriptor": ("import os\nfor _ in range(10**4): os.write(1, b'x' * 10**5)\nprint(1)", {V.OK}),
    "raw_descriptor_of_the_server": (
        "import os\nfor _ in range(10**6): os.write(3, b'x' * 10**5)",
        {V.ERROR, V.BLOCKED, V.TIMEOUT},
    ),
    "print_with_exit_removed": ("import os\nos._exit = None\nwhile True: print('x' * 1000)", {V.OUTPUT_LIMIT}),
    "warnings": ("import warnings\nwarnings.simplefilter('always')\nwhile True: warnings.warn('x' * 1000)", {V.OUTPUT_LIMIT}),
}  # fmt: skip

PROCESSES: dict[str, Case] = {
    "fork": ("import os\nos.fork()", {V.BLOCKED}),
    "fork_bomb": (
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        {V.TIMEOUT},
    ),
    "vfork_in_c": (
        "import ctypes\nassert ctypes.CDLL(None).fork() == -1\nassert ctypes.CDLL(None).vfork() == -1\nprint(1)",
        {V.OK},
    ),
    "forged_fork_of_the_sandbox": (
        "import ctypes\nl = ctypes.CDLL(None, use_errno=True)\nt = ctypes.c_long()\n"
        "p = [l.syscall(56, 0x1208011, 0, 0, ctypes.byref(t), 0) for _ in range(50)]\nassert set(p) == {-1}, p\nprint(1)",
        {V.OK},
    ),
    "raw_clone_with_threads_flags": (
        "import ctypes\nassert ctypes.CDLL(None).syscall(56, 0x3D0F00, 0, 0, 0, 0) == -1\nprint(1)",
        {V.OK},
    ),
    "clone3": ("import ctypes\nassert ctypes.CDLL(None).syscall(435, 0, 0) == -1\nprint(1)", {V.OK}),
    "subprocess": ("import subprocess\nsubprocess.run(['/bin/sh', '-c', 'echo hi'])", {V.BLOCKED}),
    "os_system": ("import os\nassert os.system('echo hi') != 0\nprint(1)", {V.OK}),
    "popen": ("import os\nos.popen('ls').read()", {V.BLOCKED}),
    "execve": ("import os\nos.execv('/usr/lib/ld-linux-x86-64.so.2', ['x'])", {V.BLOCKED}),
    "posix_spawn": ("import os\nos.posix_spawn('/bin/ls', ['ls'], {})", {V.BLOCKED}),
    "multiprocessing": ("import multiprocessing as m\nm.get_context('fork').Process(target=print).start()", {V.BLOCKED}),
    "multiprocessing_pool": ("import multiprocessing as m\nm.Pool(2)", {V.BLOCKED}),
    "process_pool": (
        "from concurrent.futures import ProcessPoolExecutor as P\nwith P(2) as p: list(p.map(abs, [1]))",
        {V.BLOCKED},
    ),
    "thread": ("import threading\nthreading.Thread(target=print).start()", {V.BLOCKED}),
    "low_level_thread": ("import _thread\n_thread.start_new_thread(print, ())", {V.BLOCKED}),
    "thread_pool": (
        "from concurrent.futures import ThreadPoolExecutor as T\nwith T(2) as t: list(t.map(abs, [1]))",
        {V.BLOCKED},
    ),
    "kill_self": ("import os\nos.kill(os.getpid(), 9)", {V.BLOCKED}),
    "kill_parent": ("import os\nos.kill(os.getppid(), 9)", {V.BLOCKED}),
    "kill_init": ("import os\nos.kill(1, 9)", {V.BLOCKED}),
    "kill_everyone": ("import os\nos.kill(-1, 9)", {V.BLOCKED}),
    "kill_group": ("import os\nos.killpg(0, 9)", {V.BLOCKED}),
    "signal_by_pidfd": ("import os, signal\nsignal.pidfd_send_signal(os.pidfd_open(1), 9)", {V.BLOCKED}),
    "ptrace": ("import ctypes\nassert ctypes.CDLL(None).ptrace(16, 1, 0, 0) == -1\nprint(1)", {V.OK}),
    "process_vm_readv": ("import ctypes\nassert ctypes.CDLL(None).syscall(310, 1, 0, 0, 0, 0, 0) == -1\nprint(1)", {V.OK}),
    "priority": ("import os\nos.nice(-5)", {V.BLOCKED}),
    "affinity": ("import os\nos.sched_setaffinity(0, {0})", {V.BLOCKED}),
    "session": ("import os\nos.setsid()", {V.BLOCKED}),
}  # fmt: skip

FILES: dict[str, Case] = {
    "read_system_file": ("open('/etc/passwd').read()", {V.BLOCKED}),
    "read_file_outside": ("open({outside!r}).read()", {V.BLOCKED}),
    "write_file_outside": ("open({outside!r}, 'w').write('x')", {V.BLOCKED}),
    "append_file_outside": ("open({outside!r}, 'a').write('x')", {V.BLOCKED}),
    "delete_file_outside": ("import os\nos.unlink({outside!r})", {V.BLOCKED}),
    "rename_file_outside": ("import os\nos.rename({outside!r}, {outside!r} + '2')", {V.BLOCKED}),
    "chmod_file_outside": ("import os\nos.chmod({outside!r}, 0o777)", {V.BLOCKED}),
    "truncate_file_outside": ("import os\nos.truncate({outside!r}, 0)", {V.BLOCKED}),
    "link_file_outside": ("import os\nos.link({outside!r}, '/tmp/x')", {V.BLOCKED}),
    "write_here": ("open('x.txt', 'w')", {V.BLOCKED}),
    "write_in_tmp": ("open('/tmp/x.txt', 'w')", {V.BLOCKED}),
    "write_in_shared_memory": ("open('/dev/shm/x', 'w')", {V.BLOCKED}),
    "temporary_file": ("import tempfile\ntempfile.TemporaryFile()", {V.BLOCKED}),
    "make_directory": ("import os\nos.mkdir('/x')", {V.BLOCKED}),
    "list_processes": ("import os\nos.listdir('/proc')", {V.BLOCKED}),
    "read_own_environment": ("open('/proc/self/environ').read()", {V.BLOCKED}),
    "read_init_environment": ("open('/proc/1/environ').read()", {V.BLOCKED}),
    "write_own_memory_file": ("open('/proc/self/mem', 'r+b')", {V.BLOCKED}),
    "read_kernel_settings": ("open('/proc/sys/kernel/hostname').read()", {V.BLOCKED}),
    "open_memory_device": ("open('/dev/mem', 'rb')", {V.BLOCKED}),
    "open_terminal": ("open('/dev/tty', 'r+')", {V.BLOCKED}),
    "poison_a_bytecode_cache": ("import colorsys\nopen(colorsys.__cached__, 'wb').write(b'x')", {V.BLOCKED}),
    "change_the_standard_library": ("import colorsys\nopen(colorsys.__file__, 'a').write('x')", {V.BLOCKED}),
    "sqlite_file": ("import sqlite3\nsqlite3.connect('/tmp/x.db').execute('create table t (a)')", {V.ERROR, V.BLOCKED}),
    "inherited_descriptors": (
        "import os\nfound = []\nfor d in range(4, 1024):\n    try: os.fstat(d); found.append(d)\n    except OSError: pass\nassert not found, found\nprint(1)",
        {V.OK},
    ),
    "walk_up_out_of_the_root": ("import os\nassert os.path.samefile('/', '/../../..')\nos.chroot('/usr')", {V.BLOCKED}),
    "mount": ("import ctypes\nassert ctypes.CDLL(None).mount(b'none', b'/usr', b'tmpfs', 0, 0) == -1\nprint(1)", {V.OK}),
    "unmount": ("import ctypes\nassert ctypes.CDLL(None).umount2(b'/usr/lib', 2) == -1\nprint(1)", {V.OK}),
}  # fmt: skip

NETWORK_AND_PRIVILEGES: dict[str, Case] = {
    "tcp": ("import socket\nsocket.create_connection(('127.0.0.1', 22), 1)", {V.BLOCKED}),
    "udp": ("import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM)", {V.BLOCKED}),
    "ipv6": ("import socket\nsocket.socket(socket.AF_INET6)", {V.BLOCKED}),
    "unix_socket": ("import socket\nsocket.socket(socket.AF_UNIX)", {V.BLOCKED}),
    "socket_pair": ("import socket\nsocket.socketpair()", {V.BLOCKED}),
    "raw_socket": ("import socket\nsocket.socket(socket.AF_INET, socket.SOCK_RAW, 1)", {V.BLOCKED}),
    "netlink": ("import socket\nsocket.socket(socket.AF_NETLINK, socket.SOCK_RAW)", {V.BLOCKED}),
    "vsock": ("import socket\nsocket.socket(socket.AF_VSOCK)", {V.BLOCKED}),
    "name_lookup": ("import socket\nsocket.gethostbyname('localhost.invalid')", {V.BLOCKED}),
    "url": ("import urllib.request\nurllib.request.urlopen('http://127.0.0.1:1/')", {V.BLOCKED}),
    "event_loop": ("import asyncio\nasyncio.run(asyncio.sleep(0))", {V.BLOCKED}),
    "setuid": ("import os\nos.setuid(0)", {V.BLOCKED}),
    "user_namespace": ("import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == -1\nprint(1)", {V.OK}),
    "keyring": ("import ctypes\nassert ctypes.CDLL(None).syscall(250, 0, 0, 0, 0, 0) == -1\nprint(1)", {V.OK}),
    "bpf": ("import ctypes\nassert ctypes.CDLL(None).syscall(321, 0, 0, 0) == -1\nprint(1)", {V.OK}),
    "io_uring": ("import ctypes\nassert ctypes.CDLL(None).syscall(425, 1, 0) == -1\nprint(1)", {V.OK}),
    "userfaultfd": ("import ctypes\nassert ctypes.CDLL(None).syscall(323, 0) == -1\nprint(1)", {V.OK}),
    "another_filter": ("import ctypes\nassert ctypes.CDLL(None).prctl(22, 2, 0) == -1\nprint(1)", {V.OK}),
    "becoming_dumpable": ("import ctypes\nassert ctypes.CDLL(None).prctl(4, 1, 0, 0, 0) == -1\nprint(1)", {V.OK}),
    "surviving_the_server": ("import ctypes\nassert ctypes.CDLL(None).prctl(1, 0, 0, 0, 0) == -1\nprint(1)", {V.OK}),
    "x32_system_call": ("import ctypes\nassert ctypes.CDLL(None).syscall(0x40000000 + 57) == -1\nprint(1)", {V.OK}),
    "personality": ("import ctypes\nassert ctypes.CDLL(None).personality(0x40000) == -1\nprint(1)", {V.OK}),
    "message_queue": ("import ctypes\nassert ctypes.CDLL(None).msgget(0, 0o1666) == -1\nprint(1)", {V.OK}),
    "system_v_shared_memory": ("import ctypes\nassert ctypes.CDLL(None).shmget(0, 4096, 0o1666) == -1\nprint(1)", {V.OK}),
    "memory_of_another_terminal": ("import fcntl\nfcntl.ioctl(1, 0x5412, b'x')", {V.BLOCKED, V.ERROR}),
}  # fmt: skip

INT80 = """
import ctypes, mmap
code = mmap.mmap(-1, 4096, prot=7)
code.write(bytes([0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0xC3]))  # mov eax, 20 (getpid); int 0x80; ret
call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
print(call())
"""
FORGED_OK = "import os, struct\nos.write(3, struct.pack('<cBQI', b'D', 0, 0, 3) + b'hey')\n"
TAMPERING: dict[str, Case] = {
    "int80_system_call": (INT80, {V.ERROR, V.BLOCKED}),
    "garbage_reply": ("import os\nos.write(3, b'garbage')\nimport time\ntime.sleep(60)", {V.ERROR}),
    "empty_reply": ("import os, socket\nsocket.socket(fileno=3).send(b'')\nimport time\ntime.sleep(60)", {V.ERROR}),
    "reply_with_an_unknown_verdict": (
        "import os, struct\nos.write(3, struct.pack('<cBQI', b'D', 77, 0, 0))\nimport time\ntime.sleep(60)",
        {V.ERROR},
    ),
    "reply_that_lies_about_its_size": (
        "import os, struct\nos.write(3, struct.pack('<cBQI', b'D', 0, 0, 2**32 - 1) + b'x' * 50_000)\nimport time\ntime.sleep(60)",
        {V.ERROR},
    ),
    "second_hello": ("import os\nos.write(3, b'H')\nimport time\ntime.sleep(60)", {V.ERROR}),
    "closed_control_socket": ("import os\nos.close(3)\nwhile True: pass", {V.ERROR}),
    "replaced_control_socket": ("import os\nos.dup2(1, 3)\nwhile True: pass", {V.ERROR}),
    "shut_down_control_socket": (
        "import socket\nsocket.socket(fileno=3).shutdown(2)\nwhile True: pass",
        {V.ERROR},
    ),
    "read_from_control_socket": ("import os\nos.read(3, 100)", {V.TIMEOUT}),
    "descriptor_sent_to_the_server": (
        "import socket, array\ns = socket.socket(fileno=3)\n"
        "s.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [0, 1, 2]))])\nimport time\ntime.sleep(60)",
        {V.ERROR},
    ),
    "forged_ok_contains_itself": (FORGED_OK + "while True: pass", {V.OK}),
    "state_after_a_forged_ok_does_not_answer": ((FORGED_OK + "while True: pass", "print(1)"), {V.KILLED}),
    "builtins_removed": (
        ("import builtins\nkeep = print\nvars(builtins).clear()\nbuiltins.__dict__['print'] = keep", "print(1)"),
        {V.OK},
    ),
    "modules_emptied": (("import sys, os\nos.__dict__.clear()\nsys.modules.clear()", "x = 1"), {V.OK}),
    "len_and_str_replaced": (("import builtins\nbuiltins.len = builtins.str = builtins.isinstance = None", "print(1)"), {V.OK}),
    "import_replaced": (("import builtins\nbuiltins.__import__ = None", "import math"), {V.ERROR}),
    "stdout_replaced_by_none": (("import sys\nsys.stdout = None", "print(1)"), {V.OK}),
    "stdout_deleted": (("import sys\ndel sys.stdout", "x = 1"), {V.OK}),
    "stdout_closed": (("import sys\nsys.stdout.close()", "print(1)"), {V.OK}),
    "globals_cleared": (("globals().clear()", "x = 1"), {V.OK}),
    "main_module_removed": (("import sys\ndel sys.modules['__main__']", "print(1)"), {V.OK}),
    "frames_of_the_runner_spoilt": (
        "import sys\nf = sys._getframe()\nwhile f:\n    f.f_globals.clear() if f.f_back else None\n    f = f.f_back",
        {V.OK, V.ERROR},
    ),
    "tracing_left_on": (("import sys\nsys.settrace(lambda *a: None)", "print(1)"), {V.OK}),
    "hook_that_exits": (("import sys\nsys.excepthook = exit", "1 / 0"), {V.ERROR}),
    "audit_hook_that_raises": (
        ("import sys\ndef hook(e, a):\n    if e == 'exec': raise ValueError\nsys.addaudithook(hook)", "x = 1"),
        {V.ERROR},
    ),
    "every_object_spoilt": (
        "import gc\nfor o in gc.get_objects():\n    if type(o) is dict:\n        try: o.clear()\n        except Exception: pass",
        {V.OK, V.ERROR, V.TIMEOUT},
    ),
    "finaliser_left_behind": (("class A:\n    def __del__(s):\n        raise ValueError\na = A()", "del a\nprint(1)"), {V.OK}),
    "timer_left_behind": (
        ("import signal\nsignal.signal(signal.SIGALRM, lambda *a: 1 / 0)\nsignal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)", "x = 1"),
        {V.OK, V.ERROR, V.KILLED},
    ),
}  # fmt: skip

CASES: dict[str, Case] = {
    f"{group}-{name}": case
    for group, cases in {
        "exit": EXITS,
        "time": TIME,
        "memory": MEMORY,
        "flood": FLOODS,
        "process": PROCESSES,
        "file": FILES,
        "network": NETWORK_AND_PRIVILEGES,
        "tampering": TAMPERING,
    }.items()
    for name, case in cases.items()
}
