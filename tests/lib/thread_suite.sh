# Sourced by tests/lib/suites.sh: the thread sanitizer.
# What is not built here (gRPC, protobuf, abseil, sdbus-c++) it does not see inside: thread.supp tells what follows from that.

threadSuite() {
  local dir=$build-thread only=("${only[@]}") unit units=(sys store)
  configureAndBuild "$dir" "${product[*]} ${units[*]/#/tests/unit/unit-}" -Db_sanitize=thread -Db_lundef=false -Doptimization=1 ||
    { result FAIL build/thread "does not build"; return; }
  # Without randomization, as its shadow memory has no place for the addresses of kernels with vm.mmap_rnd_bits above 28.
  export USERPOD_SANITIZE=1 TSAN_OPTIONS=suppressions=$root/tests/lib/thread.supp:history_size=4:second_deadlock_stack=1
  say "thread: unit tests"
  for unit in "${units[@]}"; do
    if setarch -R "$dir/tests/unit/unit-$unit" > "$work/unit.log" 2>&1; then result PASS "thread/unit-$unit"
    else tail -n 80 "$work/unit.log"; result FAIL "thread/unit-$unit" "see above"; fi
  done
  [ ${#only[@]} -gt 0 ] || only=(first_pod_test restart_test many_test)
  unit_wrapper='/usr/bin/setarch -R ' integrationSuite thread "$dir"
  unset TSAN_OPTIONS
}
