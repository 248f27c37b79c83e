# Sourced by tests/lib/suites.sh: the thread sanitizer, for the daemon and for unit tests of what its threads share.
#
# The processes around the daemon have one thread each and stay as they are: the sanitizer's own thread would keep them from
# joining the node. It sees only what is built here, not into gRPC and the other libraries: thread.supp tells what follows.

threadSuite() {
  local dir=$build-thread only=("${only[@]}") unit units=(sys store core)
  configureAndBuild "$build" "product $conformance" -Doptimization=1 &&
    configureAndBuild "$dir" "daemon/userpodd-inner ${units[*]/#/tests/unit/unit-}" -Db_sanitize=thread -Db_lundef=false -Doptimization=1 ||
    { result FAIL build/thread "does not build"; return; }
  # The daemon looks for its helpers where its own build would install them.
  mkdir -p "$dir/prefix/libexec/userpod"
  cp "$build"/daemon/oci/userpod-{pause,exec} "$build"/daemon/images/userpod-{pull,unpack} "$dir/prefix/libexec/userpod/"
  export USERPOD_SANITIZE=1
  export TSAN_OPTIONS=suppressions=$root/tests/lib/thread.supp:ignore_noninstrumented_modules=1:history_size=4:second_deadlock_stack=1
  say "thread: unit tests"
  for unit in "${units[@]}"; do
    # Without randomization: the sanitizer has no room for addresses of kernels with vm.mmap_rnd_bits above 28.
    if setarch -R "$dir/tests/unit/unit-$unit" > "$work/unit.log" 2>&1; then result PASS "thread/unit-$unit"
    else tail -n 80 "$work/unit.log"; result FAIL "thread/unit-$unit" "see above"; fi
  done
  [ ${#only[@]} -gt 0 ] || only=(first_pod_test bus_test restart_test races_test many_test image_store_test formats_test 'Streaming*.*' 'Each/*.*')
  inner=$dir/daemon/userpodd-inner integrationSuite thread "$build" tests conformance
  unset USERPOD_SANITIZE TSAN_OPTIONS
}
