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
  rm -f "$work/conformance"
  # The leak check traces the process, which a user namespace does not allow everywhere.
  ASAN_OPTIONS=${ASAN_OPTIONS:-}${ASAN_OPTIONS:+:}detect_leaks=0 timeout -k 20 900 \
    "$root/tests/conformance/in-node" "$dir" --jobs "$jobs" --results "$work/conformance" --gtest_brief=1 "${options[@]}" \
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

# mutantsSuite: userpod broken in small ways, one after the other, in a copy of the tree; the suite must notice each.
# USERPOD_MUTANTS: the numbers of some.
mutantsSuite() {
  local dir=$build-mutants source=$build-mutants-source
  say "copy of the tree in $source"
  rm -rf "$source" && mkdir -p "$source"
  (cd "$root" && tar -c --exclude=./.git --exclude='./build*' . ) | tar -x -C "$source"
  # One file a compilation: a mutant is one file.
  [ -e "$dir/build.ninja" ] || meson setup "$dir" "$source" --prefix="$dir/prefix" --libexecdir=libexec -Ddebug=false -Doptimization=1 \
    > "$work/build.log" 2>&1 || { tail -n 30 "$work/build.log"; result FAIL mutants/build "is not set up"; return; }
  ninja -C "$dir" product "$conformance" > "$work/build.log" 2>&1 || { tail -n 30 "$work/build.log"; result FAIL mutants/build "does not build"; return; }
  startRegistry && installAndStart "$dir" || { result FAIL mutants/start "userpod does not start"; return; }
  say "mutants: each is built and the conformance suite run"
  # shellcheck disable=SC2086
  "$root/tests/conformance/mutants" "$source" "$dir" ${USERPOD_MUTANTS:-} 2>&1 | tee "$work/mutants.log" || true
  awk -v OFS='\t' '$1 == "ok" || $1 == "MISS" { print $1 == "ok" ? "PASS" : "FAIL", "mutants/" $2, $0 }' "$work/mutants.log" >> "$results"
  grep -q ' noticed$' "$work/mutants.log" || result FAIL mutants/run "see above"
  stopAndRemove "$dir" || result FAIL mutants/remove "see above"
}
