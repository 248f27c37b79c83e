"""Results of a meson test run as tests/run collects them: junit_results.py XML SUITE STATUS

One line for each test case: STATUS, SUITE/TEST.CASE, reason, separated by tabs.  STATUS is meson's exit status; when it
failed and no case says so (a crash, a sanitizer's report at the end), a line of its own does.
"""
import sys
import xml.etree.ElementTree as ET

path, suite, status = sys.argv[1:]
failed = False
try:
    suites = list(ET.parse(path).getroot())
except (OSError, ET.ParseError) as e:
    suites = []
    print(f'FAIL\t{suite}/unit\tno results: {e}')
    failed = True
for s in suites:
    for case in s.iter('testcase'):
        name = f'{suite}/{case.get("classname", s.get("name"))}.{case.get("name")}'.replace('\t', ' ')
        kind = {child.tag: child for child in case}
        bad = next((kind[k] for k in ('failure', 'error') if k in kind), None)
        if bad is not None:
            failed = True
            print(f'FAIL\t{name}\t{" ".join((bad.get("message") or bad.text or "").split())[:200]}')
        elif 'skipped' in kind or case.get('result') == 'skipped':
            text = kind['skipped'].get('message') or kind['skipped'].text if 'skipped' in kind else ''
            # gtest puts "file:line" on the first line.
            print(f'SKIP\t{name}\t{" ".join((text or "no reason given").strip().splitlines()[-1].split())}')
        else:
            print(f'PASS\t{name}\t')
    if s.get('errors', '0') != '0' and not failed:
        failed = True
        print(f'FAIL\t{suite}/{s.get("name")}\tended abnormally')
if status != '0' and not failed:
    print(f'FAIL\t{suite}/unit\tmeson test: exit status {status}')
