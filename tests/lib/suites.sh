# Sourced by tests/run, as the ordinary user: builds and runs the suites.
# Uses: root, suites, only, build, long, seconds.  Results are collected in $results, one "STATUS<tab>SUITE/NAME<tab>REASON" a line.

# shellcheck source=thread_suite.sh
. "$root/tests/lib/thread_suite.sh"

work='' results=''

say() { printf '== %s\n' "$*"; }
result() { printf '%s\t%s\t%s\n' "$1" "$2" "${3:-}" >> "$results"; } # STATUS NAME [REASON]
wants() { local s; for s in "${suites[@]}"; do [ "$s" = "$1" ] && return; done; return 1; }

# Whether an integration test of this name is to run.
chosen() {
  local pattern
  [ ${#only[@]} -gt 0 ] || return 0
  # shellcheck disable=SC2254
  for pattern in "${only[@]}"; do case $1 in $pattern) return 0 ;; esac; done
  return 1
}

# configureAndBuild DIR "TARGET ..." MESON-OPTION...   (no target: everything)
# Several files are compiled as one, without debug information: most of a build is reading the same headers again.
configureAndBuild() {
  local dir=$1 targets=$2 log; shift 2; log=$work/build.log
  say "build in $dir"
  # A build directory of another checkout, or one whose set-up broke off, is of no use.
  if [ -e "$dir/build.ninja" ] && ! grep -qsF "\"$root\"" "$dir/meson-info/meson-info.json"; then rm -rf "$dir"; fi
  if [ ! -e "$dir/build.ninja" ]; then
    rm -rf "$dir"
    meson setup "$dir" "$root" --prefix="$dir/prefix" --libexecdir=libexec --unity=on -Dunity_size=6 -Ddebug=false "$@" > "$log" 2>&1 ||
      { tail -n 30 "$log"; return 1; }
  fi
  # shellcheck disable=SC2086
  ninja -C "$dir" $targets > "$log" 2>&1 || { grep -E -A15 'FAILED|error' "$log" | head -n 80; return 1; }
}

unitsOf() { (cd "$1/share/systemd/user" && echo *); }

# installAndStart DIR: for this session only, below the runtime directory; nothing of the user's own is touched.
installAndStart() {
  local dir=$1 prefix=$1/prefix options
  if systemctl --user cat userpod-node.service > /dev/null 2>&1 || [ -e "${XDG_DATA_HOME:-$HOME/.local/share}/userpod/images.db" ]; then
    echo "a userpod of this user is installed or has data: take it away (units/quickstart --remove), or run the tests as another user"
    return 1
  fi
  [ -n "${installed:-}" ] || meson install -C "$dir" --no-rebuild > "$work/install.log" 2>&1 || { tail "$work/install.log"; return 1; }
  mkdir -p "$XDG_RUNTIME_DIR/systemd/user" "$XDG_RUNTIME_DIR/dbus-1/services"
  cp "$prefix"/share/systemd/user/* "$XDG_RUNTIME_DIR/systemd/user/"
  cp "$prefix"/share/dbus-1/services/* "$XDG_RUNTIME_DIR/dbus-1/services/"
  if [ -n "${inner:-}" ]; then              # a daemon of another build: see thread_suite.sh
    cp "$inner" "$prefix/libexec/userpod/"
    sed -i 's#^ExecStart=#&/usr/bin/setarch -R #' "$XDG_RUNTIME_DIR/systemd/user/userpod.service"
  fi
  for options in ASAN_OPTIONS UBSAN_OPTIONS TSAN_OPTIONS; do
    [ -z "${!options:-}" ] || systemctl --user set-environment "$options=${!options}:detect_leaks=0:log_path=$work/sanitizer"
  done
  systemctl --user daemon-reload
  busctl --user --quiet call org.freedesktop.DBus /org/freedesktop/DBus org.freedesktop.DBus ReloadConfig
  systemctl --user start userpod.socket && "$prefix/bin/userpod-cri" version > "$work/version" 2>&1 && return
  cat "$work/version"; journalctl --user --no-pager -n 30 -u 'userpod*'; return 1
}

# stopAndRemove DIR
stopAndRemove() {
  local prefix=$1/prefix unit
  systemctl --user stop userpod.socket userpod.service userpod-node.service
  "$prefix/bin/userpodctl" reset --yes > "$work/reset.log" 2>&1 || { cat "$work/reset.log"; return 1; }
  for unit in $(unitsOf "$prefix"); do rm -f "$XDG_RUNTIME_DIR/systemd/user/$unit"; done
  rm -f "$XDG_RUNTIME_DIR/dbus-1/services/org.userpod1.service"
  systemctl --user unset-environment ASAN_OPTIONS UBSAN_OPTIONS TSAN_OPTIONS
  systemctl --user daemon-reload
  systemctl --user reset-failed 'userpod*' 2> /dev/null || true
}

# unitSuite NAME DIR
unitSuite() {
  local name=$1 dir=$2 status=0
  say "$name: unit tests"
  rm -f "$dir"/meson-logs/testlog.{json,junit.xml} "$dir"/*.xml      # gtest's own; a crash would leave the last run's
  meson test -C "$dir" --suite unit --no-rebuild --print-errorlogs > "$work/unit.log" 2>&1 || status=$?
  [ "$status" -eq 0 ] || grep -vE '^ninja:|^$' "$work/unit.log" | tail -n 150
  /usr/bin/python3 "$root/tests/lib/junit_results.py" "$dir/meson-logs" "$name" "$status" >> "$results"
}

startRegistry() {
  [ -z "${USERPOD_REGISTRY:-}" ] || return 0
  say "local registry"
  local dir=$work/registry
  "$root/tests/testbed/registry" up "$dir" --hostile --formats ${long:+--many-files --bench} > /dev/null || return 1
  "$root/tests/testbed/registries" up "$dir" || return 1
  USERPOD_REGISTRY=127.0.0.1:$(cat "$dir/port")
  USERPOD_TOKEN_REGISTRY=127.0.0.1:$(cat "$dir/token_port")
  USERPOD_REGISTRY_DIR=$dir
  export USERPOD_REGISTRY USERPOD_TOKEN_REGISTRY USERPOD_REGISTRY_DIR
}

# With --long, where Go is: for tests/integration/client_go_test.py.
buildClientGo() {
  [ -n "$long" ] && [ -z "${USERPOD_CLIENT_GO:-}" ] || return 0
  local why
  if why=$("$root/tests/streaming/client-go/build" "$work/client-go" 2>&1); then export USERPOD_CLIENT_GO=$work/client-go
  else say "no program of client-go: $why"; fi
}

# Of these one run is enough, but with --long.  plainOnly takes minutes in programs that are not sanitized (kubectl, plugins, uplinks)
# or waits for the clock, and what the daemon does there, units and other tests do too.  sanitizedOnly is about what it does, not when.
plainOnly=' cni_test kubectl_test kubectl_port_test killed_test uplink_test host_ports_test pull_kill_test stats_test '
sanitizedOnly=' check_test config_test image_store_test lies_test lost_bus_test nospace_test pull_faults_test requests_test storage_test '

# ranOnce NAME TEST: whether another suite of this run has it.
ranOnce() {
  [ -z "$long" ] && [ ${#only[@]} -eq 0 ] && wants integration && wants sanitize || return 1
  case $1 in
    sanitize) [[ $plainOnly = *" $2 "* ]] ;;
    integration) [[ $sanitizedOnly = *" $2 "* ]] ;;
    *) return 1 ;;
  esac
}

# integrationTests NAME DIR, against the userpod that is started
integrationTests() {
  local name=$1 dir=$2 limit=400 t test log status began
  [ -z "$long" ] || limit=7200
  buildClientGo
  say "$name: integration tests"
  for t in "$root"/tests/integration/*_test.py; do
    [ -x "$t" ] || continue
    chosen "$(basename "$t" .py)" || continue
    if ranOnce "$name" "$(basename "$t" .py)"; then
      result SKIP "$name/$(basename "$t" .py)" "once is enough, which is in another suite; --long runs it in both"; continue
    fi
    test=$(basename "$t" .py) log=$work/$name-$(basename "$t" .py).log status=0 began=$SECONDS
    USERPOD_BUILD=$dir timeout -k 20 "${USERPOD_TEST_TIMEOUT:-$limit}" "$t" > "$log" 2>&1 < /dev/null || status=$?
    case $status in
      0) result PASS "$name/$test"
         # A test of many parts tells of those it left out: "SKIP: reason".
         while read -r _ reason; do result SKIP "$name/$test" "$reason"; done < <(grep -a '^SKIP: ' "$log") ;;
      77) result SKIP "$name/$test" "$(tail -n 1 "$log")" ;;
      *) if [ "$status" -eq 124 ]; then result FAIL "$name/$test" "timed out"; else result FAIL "$name/$test" "exit status $status"; fi
         say "output of $test:"; tail -n 60 "$log" ;;
    esac
    printf '   %s: %s (%d s)\n' "$test" "$(tail -n 1 "$results" | cut -f1)" $((SECONDS - began))
  done
}

# integrationSuite NAME DIR PART...: what is to run against one userpod: units, while a node and a registry are there for
# them; tests, those of integration; conformance.
integrationSuite() {
  local name=$1 dir=$2 part; shift 2
  startRegistry || { result FAIL "$name/registry" "the local registry does not start"; return; }
  /usr/bin/python3 "$root/tests/oracle" snapshot "$work/oracle"
  export USERPOD_PREFIX=$dir/prefix
  installAndStart "$dir" || { result FAIL "$name/start" "userpod does not start, see above"; return; }
  for part; do
    case $part in
      units) unitSuite "$name" "$dir" ;;
      tests) integrationTests "$name" "$dir" ;;
      conformance) conformanceTests "$name" "$dir" ;;
    esac
  done
  stopAndRemove "$dir" || result FAIL "$name/remove" "see above"
  if compgen -G "$work/sanitizer.*" > /dev/null; then
    head -n 60 "$work"/sanitizer.*; result FAIL "$name/sanitizer-reports" "see above"
  fi
  if /usr/bin/python3 "$root/tests/oracle" check "$work/oracle"; then result PASS "$name/nothing-left"
  else result FAIL "$name/nothing-left" "see above"; fi
}

fuzzSuite() {
  local dir=$build-fuzz seconds=${seconds:-$([ -n "$long" ] && echo 600 || echo 30)} target verdict rest
  local flags='-fsanitize=fuzzer-no-link -fprofile-instr-generate -fcoverage-mapping'
  CXX=clang++ configureAndBuild "$dir" "$(printf 'tests/fuzz/fuzz-%s ' tar decompress manifest config reference registries auth challenge answers messages devices cni spdy headers http sessions websocket)" \
    -Doptimization=1 -Db_sanitize=address,undefined -Db_lundef=false "-Dcpp_args=$flags" -Dcpp_link_args=-fprofile-instr-generate ||
    { result FAIL build/fuzz "does not build"; return; }
  say "fuzz: $seconds s a target"
  "$root/tests/fuzz/run" "$dir" "$seconds" 2>&1 | tee "$work/fuzz.log" || true
  while read -r target verdict rest; do
    case $verdict in clean) result PASS "fuzz/$target" ;; skipped:) result SKIP "fuzz/$target" "$rest" ;; FINDING) result FAIL "fuzz/$target" "see $dir/findings/$target" ;; esac
  done < "$work/fuzz.log"
  grep -q ' clean ' "$work/fuzz.log" || result FAIL fuzz/run "see above"
}

summary() {
  local failed; failed=$(grep -c '^FAIL' "$results" || true)
  echo
  say "summary"
  awk -F'\t' '{ split($2, n, "/"); count[n[1], $1]++; suites[n[1]] } END { for (s in suites)
    printf "%-12s %4d passed  %4d failed  %4d skipped\n", s, count[s, "PASS"], count[s, "FAIL"], count[s, "SKIP"] }' "$results" | sort
  awk -F'\t' '$1 == "SKIP" { printf "skipped %s: %s\n", $2, $3 }' "$results"
  awk -F'\t' '$1 == "FAIL" { printf "FAILED %s: %s\n", $2, $3 }' "$results"
  printf '%s in %d:%02d\n' "$([ "$failed" -eq 0 ] && echo passed || echo FAILED)" $((SECONDS / 60)) $((SECONDS % 60))
  [ "$failed" -eq 0 ]
}

cleanUp() {
  if [ -d "$work/registry" ]; then
    "$root/tests/testbed/registries" down "$work/registry" || true
    "$root/tests/testbed/registry" down "$work/registry" || true
  fi
  rm -rf "$work"
}

runSuites() {
  build=${build:-${XDG_CACHE_HOME:-$HOME/.cache}/userpod-tests/build}
  mkdir -p "$build"; build=$(cd "$build" && pwd)
  rm -rf "$build/images"  # made again by umlPrepare: without them umlSuite runs nothing, the build is an earlier source's
  work=$(mktemp -d "${TMPDIR:-/var/tmp}/userpod-tests.XXXXXX"); results=$work/results; : > "$results"
  trap cleanUp EXIT
  trap 'exit 143' TERM INT HUP
  [ -z "$long" ] || export USERPOD_LONG=1
  if wants unit; then
    if configureAndBuild "$build" "" -Doptimization=1; then unitSuite unit "$build"; else result FAIL build/plain "does not build"; fi
  fi
  local parts=() name=integration targets=(product)
  if wants conformance; then parts+=(conformance); name=conformance targets+=("$conformance"); fi
  if wants integration; then parts+=(tests); name=integration; fi
  if [ ${#parts[@]} -gt 0 ]; then
    if configureAndBuild "$build" "${targets[*]}" -Doptimization=1; then integrationSuite "$name" "$build" "${parts[@]}"
    else result FAIL build/plain "does not build"; fi
  fi
  if wants sanitize; then
    if configureAndBuild "$build-sanitize" "all $conformance" -Db_sanitize=address,undefined -Db_lundef=false -Doptimization=0; then
      export USERPOD_SANITIZE=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 ASAN_OPTIONS=detect_stack_use_after_return=0:abort_on_error=1
      integrationSuite sanitize "$build-sanitize" units conformance tests
    else result FAIL build/sanitize "does not build"; fi
  fi
  if wants thread; then threadSuite; fi
  if wants fuzz; then fuzzSuite; fi
  if wants mutants; then mutantsSuite; fi
  if wants uml; then umlPrepare; fi
  summary
}
