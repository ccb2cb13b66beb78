"""What `make mutants` changes, the tests that must notice, and the changes that no test could notice."""

from eval.mutants.running import Target

CORE = "apps/core/tests/"
LIMITS = "apps/api/tests/limits/"
GENERATE = "apps/api/tests/generate/"
TARGETS = (
    Target(
        "apps.core.errors",
        (f"{CORE}test_errors.py", f"{CORE}test_error_table.py", f"{CORE}test_quoting.py"),
    ),
    Target("apps.core.storage", (f"{CORE}test_storage.py",)),
    Target("apps.core.callers", (f"{CORE}test_callers.py", "apps/operations/tests/test_key_terms.py")),
    Target("apps.core.calls", (f"{CORE}test_calls.py", "apps/models/tests/test_metering.py")),
    Target("apps.core.config_file", (f"{CORE}test_config_file.py",)),
    Target("apps.core.yaml_file", (f"{CORE}test_config_file.py", f"{CORE}test_yaml_file.py")),
    Target("apps.core.deltas", (f"{CORE}test_deltas.py",)),
    Target("apps.core.fields", (f"{CORE}test_fields.py",)),
    Target("apps.core.messages", (f"{CORE}test_messages.py", f"{CORE}test_strict_json.py")),
    Target("apps.core.ports", (f"{CORE}test_ports.py",)),
    Target(
        "apps.core.process",
        (f"{CORE}test_loops.py", f"{CORE}test_lazy.py", f"{CORE}test_version.py", f"{CORE}test_cpus.py"),
    ),
    Target("apps.core.setting_types", (f"{CORE}test_settings.py", f"{CORE}test_setting_types.py")),
    Target("apps.core.settings", (f"{CORE}test_settings.py",)),
    Target(
        "apps.core.agent_runs",
        (f"{CORE}test_agent_runs.py",),
    ),
    Target(
        "apps.api.src.http.streaming",
        (
            *("apps/api/tests/http/test_sse.py", "apps/api/tests/http/test_stream_writing.py"),
            *(f"{GENERATE}test_answers.py", "apps/api/tests/ollama/test_answers.py"),
            f"{GENERATE}test_disconnects.py::test_one_client_that_leaves_ends_its_work",
            f"{GENERATE}test_faults.py::test_bare_text_that_fails_is_an_aborted_connection",
            "apps/api/tests/http/test_exceptions.py::test_a_crash_in_a_model_is_an_internal_error",
            "apps/api/tests/http/test_exceptions.py::test_a_traceback_goes_to_the_log_only_while_debugging",
            f"{LIMITS}test_limits.py::test_errors_tell_what_is_left",
        ),
    ),
    Target(
        "apps.operations.budgets",
        ("apps/operations/tests/test_budgets.py", "apps/operations/tests/test_budget_accounts.py"),
        "not postgresql",
        "not clients",
    ),
    Target(
        "apps.api.src.limits.limiter",
        (
            *(f"{LIMITS}test_limit_headers.py", f"{LIMITS}test_token_limits.py", f"{LIMITS}test_limits.py"),
            "apps/api/tests/operations/test_key_limits.py",
        ),
    ),
    Target("apps.api.src.limits.counts", (f"{LIMITS}test_rate_windows.py", f"{LIMITS}test_shared_counts.py")),
    Target(
        "apps.api.src.limits.file_counts",
        (f"{LIMITS}test_file_counts.py", f"{LIMITS}test_limits.py::test_limits_are_counted_where_the_setting_says"),
    ),
)
IN_ANOTHER = "its test starts a process of its own, which the change does not reach"
A_CLOCKS = "how long a lock is waited for is a matter of the clock"
# by module, then by the line as it stands (stripped) and what the change makes of its place
EXPLAINED: dict[str, dict[tuple[str, str], str]] = {
    "apps.core.agent_runs": {
        ("MOST_RUNS = 1000", "1001"): "a bound of memory, which tests set",
        ("MOST_UNSAVED = 1000", "1001"): "a bound of memory, which tests set",
        ("RETRY_SECONDS = 5.0", "6.0"): "a wait, which tests set",
        ("LAST_SECONDS = 2.0", "3.0"): "a bound of a wait: a second more is as good",
        ("await asyncio.wait([self._retrying])", "pass"): "a try that is being cancelled writes the same once more",
        ("began, most = time.monotonic(), 0", "1"): "for the log",
    },
    "apps.core.calls": {
        ("ASSUMED_ANSWER = 1_000", "1001"): "a guess, and as good as its neighbours",
        ('ACCOUNT: ContextVar[Account | None] = ContextVar("account", default=None)', "'accountx'"): "for debuggers",
    },
    "apps.core.fields": {
        ("return math.inf if value > 0 else -math.inf", "value >= 0"): "it is larger than any float, and not 0",
        ("return math.inf if value > 0 else -math.inf", "1"): "it is larger than any float, and not 1",
    },
    "apps.core.ports": {
        ('return hashlib.sha256("\\n".join(map(repr, words)).encode()).hexdigest()', "'\\nx'"): "as good a separator",
    },
    "apps.core.process": {
        ('CGROUP_ROOT = Path("/sys/fs/cgroup")', "'/sys/fs/cgroupx'"): "the tests bring folders of their own",
        ('CGROUP_OF_PROCESS = Path("/proc/self/cgroup")', "'/proc/self/cgroupx'"): "the tests bring files of their own",
        ("return os.cpu_count() or 1", "return None"): "for systems without an affinity mask",
        ("return os.cpu_count() or 1", "os.cpu_count() and 1"): "for systems without an affinity mask",
        ("return os.cpu_count() or 1", "2"): "for systems without an affinity mask",
        ("CANCEL_AGAIN_SECONDS = 0.5", "1.5"): "later is as good",
        ('os.environ.setdefault("OMP_WAIT_POLICY", "passive")', "pass"): IN_ANOTHER,
        ('os.environ.setdefault("OMP_WAIT_POLICY", "passive")', "'OMP_WAIT_POLICYx'"): IN_ANOTHER,
        ('os.environ.setdefault("OMP_WAIT_POLICY", "passive")', "'passivex'"): IN_ANOTHER,
    },
    "apps.core.yaml_file": {
        (
            "def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:",
            "True",
        ): "its children are made now or later, and are the same",
    },
    "apps.operations.budgets": {
        ("await asyncio.sleep(wait)", "pass"): "for the rows of other processes",
        ("wait = 0.0", "1.0"): "a wait for nothing: the answer is the same",
        (
            "if over is None or over[0] >= limit:",
            "over[0] > limit",
        ): "a wait for nothing: the answer is the same",
        (
            "if not self._ledger.settles(call.caller.key_id):",
            "if not not self._ledger.settles(call.caller.key_id):",
        ): "the wait for other processes is mostly long enough here, too",
        (
            "return known > (call.estimated_cost or 0.0)",
            "known >= (call.estimated_cost or 0.0)",
        ): "both are the same amount",
        (
            "charge = Charge(caller.key_id, period_of(caller.budget.period, time.time()), 0)",
            "1",
        ): "a standing has no amount",
        ("SETTLE_STEPS = 150", "151"): "a bound of a wait: a step more is as good",
        ("ELSEWHERE_SECONDS = 0.3", "1.3"): "a wait that is longer than most need: the answer is the same",
        ("SETTLE_STEP = 0.02", "1.02"): "a wait that is longer than most need: the answer is the same",
    },
    "apps.api.src.http.streaming": {
        ("self._active_at = 0.0", "1.0"): "read before it is set where an only frame closes slowly: as long ago",
        ("self._stalled_after = 0.0", "1.0"): "set anew before it is read",
        ("if self._sending and silence > self._stalled_after:", "silence >= self._stalled_after"): "the next tick does",
        (
            "if not self._sending and silence > PING_AFTER and self._ping:",
            "silence >= PING_AFTER",
        ): "the next tick does",
    },
    "apps.api.src.limits.counts": {
        ('URI = "loop://"', "'loop://x'"): "the engine looks at the scheme alone",
        ("wrap_exceptions: bool = False,", "True"): "none of its own are raised",
        ("SWEEP_EVERY = 10_000", "10001"): "what is over is forgotten later",
        ("REDIS_SECONDS = 0.5", "1.5"): "a bound of a wait, which tests set",
        ("HEARTBEAT_SECONDS = 1.0", "2.0"): "a second more is as good",
        ("SEEN_SECONDS = 5.0", "6.0"): "a heartbeat comes each second: one more or less is as good",
        ('PROCESSES = "processes"', "'processesx'"): "as good a name",
        (
            "return self._wall() + self._windows.get(key, (0, now))[1] - now",
            "1",
        ): "its count is not read",
        ("return ValueError", "return None"): "asked for where the engine is to wrap exceptions, which it is not",
        ("count, ends = self._windows.get(key, (0, now))", "1"): "a window that is over has no count",
        ('"retry": Retry(NoBackoff(), 0),', "1"): "another try has no more time",
        ("self._lost(error)", "pass"): "calls and heartbeats both find out",
        ("self._until_sweep -= 1", "2"): "what is over is forgotten sooner",
        ("self._name = secrets.token_hex(8)", "9"): "as good a name",
        ("await asyncio.sleep(HEARTBEAT_SECONDS)", "pass"): "it says more often that it is here",
        ("if self._until_sweep == 0:", "if not self._until_sweep == 0:"): "what is over is forgotten sooner",
        ("if self._until_sweep == 0:", "self._until_sweep != 0"): "what is over is forgotten sooner",
    },
    "apps.api.src.limits.file_counts": {
        (
            'first = len(MAGIC) + int.from_bytes(digest[:4], "big") % self._buckets * BUCKET_BYTES',
            "len(MAGIC) - int.from_bytes(digest[:4], 'big') % self._buckets * BUCKET_BYTES",
        ): "other places of the file",
        ("LOCK_SECONDS = 0.5", "1.5"): A_CLOCKS,
        ("LATE_SECONDS = 10", "11"): "a guess, and as good as its neighbours",
        ("WAYS = 8", "9"): "a size that is as good",
        ("BUCKETS = 1 << 15", "2"): "a size that is as good",
        ("BUCKETS = 1 << 15", "16"): "a size that is as good",
        ('PLACE = Struct("=16sQdI")', "'=16sQdIx'"): "a size that is as good",
        ("used, ends = 0, 0.0", "1"): "a window that is over has no count",
        ("used, ends = 0, 0.0", "1.0"): "a machine that has just started, where it is not over yet",
        ("if at >= 0:", "1"): "no place is at the file's beginning",
        (
            "if not now < ends <= now + seconds + LATE_SECONDS:",
            "now < ends < now + seconds + LATE_SECONDS",
        ): "of the places that are free: ten seconds are a guess",
        (
            "if time.monotonic() > until:",
            "if not time.monotonic() > until:",
        ): A_CLOCKS,
        ("if time.monotonic() > until:", "time.monotonic() >= until"): A_CLOCKS,
        ("until = until or time.monotonic() + LOCK_SECONDS", "time.monotonic() - LOCK_SECONDS"): A_CLOCKS,
        ("time.sleep(0)", "1"): A_CLOCKS,
        (
            'first = len(MAGIC) + int.from_bytes(digest[:4], "big") % self._buckets * BUCKET_BYTES',
            "5",
        ): "other places of the file",
        ("time.sleep(0)", "pass"): "gives the core to the lock's holder, which costs time alone",
        ("os.ftruncate(self._file, 0)", "1"): IN_ANOTHER,
        ("self._unlock()", "pass"): "the hit that opens the file gives its lock back",
        ("if at >= 0:", "at > 0"): "no place is at the file's beginning",
        ("self._lock()", "pass"): "two that begin at the same moment fill it twice",
        ("os.ftruncate(self._file, 0)", "pass"): IN_ANOTHER,
        ("raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))", "pass"): IN_ANOTHER,
    },
    "apps.api.src.limits.limiter": {
        ("@lru_cache(maxsize=1024)", "1025"): "a bound of memory: one more is as good",
    },
}
