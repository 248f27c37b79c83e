# Sourced by tests/run: the suite `uml`, integration and conformance tests that need the cpu, memory and pids controllers, in the machine that
# tests/testbed/uml boots once.  The user in the test bed makes ready what the machine then sees; root boots it.

umlTests=(limits_test stats_test clock_test)
umlConformance=('UpdateContainerResources.*' 'UpdatePodSandboxResources.*' '*.Cpu*' '*.*Memory*' '*.*Swap*' '*.*Unified*' '*.*Limit*'
  '*.*Oom*' '*.*Accounted*' '*Stats.*' '*Metrics.*')

# umlPrepare, as the user: builds and installs in $build, makes the images.
umlPrepare() {
  if [ -z "${USERPOD_TESTS_ROOT:-}" ]; then result SKIP uml/boot "user-mode-linux is booted by root: run tests/run as root"; return; fi
  configureAndBuild "$build" "product $conformance" -Doptimization=1 || { result FAIL build/plain "does not build"; return; }
  meson install -C "$build" --no-rebuild > "$work/install.log" 2>&1 || { tail "$work/install.log"; result FAIL uml/install "see above"; return; }
  if "$root/tests/testbed/registry" up "$build/images" > /dev/null && "$root/tests/testbed/registry" down "$build/images"; then return; fi
  result FAIL uml/images "the local registry does not start"
}

# umlSuite USER BUILD, as root, after umlPrepare.
umlSuite() {
  local user=$1 build=$2 test tests=()
  for test in "${umlTests[@]}"; do ! chosen "$test" || tests+=("$test"); done
  for test in "${only[@]}"; do case $test in *.*) tests+=("$test") ;; esac; done
  [ ${#only[@]} -gt 0 ] || tests+=("${umlConformance[@]}")
  [ ${#tests[@]} -gt 0 ] || return 0
  [ -d "$build/images" ] || { echo "== uml: nothing to run: see above"; return 1; }
  echo "== uml: boot"
  "$session" root "$inside/tests/testbed/uml" -m 2G -t 900 -u "$user" -v "$inside:$inside" -v "$build:$build" -- \
    env "USERPOD_LONG=$long" "$inside/tests/lib/uml-inside" "$build" "${tests[@]}"
}
