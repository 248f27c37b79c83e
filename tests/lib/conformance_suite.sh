# Sourced by tests/run: the suite `conformance`, the tests of tests/conformance in the node of the userpod that is started.

conformance=tests/conformance/userpod-conformance

# conformanceTests NAME DIR
conformanceTests() {
  local name=$1 dir=$2 jobs=${USERPOD_CONFORMANCE_JOBS:-6} pattern filter='' began=$SECONDS status=0 options=()
  for pattern in "${only[@]}"; do
    case $pattern in conformance) filter='*'; break ;; *.*) filter+=${filter:+:}$pattern ;; esac
  done
  [ ${#only[@]} -eq 0 ] || [ -n "$filter" ] || return 0
  [ "${filter:-*}" = '*' ] || options+=("--gtest_filter=$filter")
  [ -z "${USERPOD_SANITIZE:-}${USERPOD_SLOW:-}" ] || options+=(--slow)
  say "$name: conformance tests"
  # The leak check traces the process, which a user namespace does not allow everywhere.
  ASAN_OPTIONS=${ASAN_OPTIONS:-}${ASAN_OPTIONS:+:}detect_leaks=0 timeout -k 20 900 \
    "$dir/prefix/bin/userpodctl" enter -- "$dir/$conformance" --endpoint "unix://$XDG_RUNTIME_DIR/userpod/cri.sock" \
    --registry "$USERPOD_REGISTRY" --jobs "$jobs" --results "$work/conformance" --gtest_brief=1 "${options[@]}" \
    > "$work/conformance.log" 2>&1 < /dev/null || status=$?
  [ "$status" -eq 0 ] || tail -n 150 "$work/conformance.log"
  touch "$work/conformance"
  awk -F'\t' -v OFS='\t' -v suite="$name/" '{ $2 = suite $2; print }' "$work/conformance" >> "$results"
  if [ "$status" -ne 0 ] && ! grep -q '^FAIL' "$work/conformance"; then
    result FAIL "$name/conformance" "exit status $status"
  fi
  printf '   %s tests of conformance: %s failed (%d s)\n' "$(wc -l < "$work/conformance")" \
    "$(grep -c '^FAIL' "$work/conformance" || true)" $((SECONDS - began))
}
