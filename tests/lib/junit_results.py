"""Results of a meson test run as tests/run collects them: junit_results.py LOGS SUITE STATUS

LOGS is meson-logs: testlog.junit.xml has gtest's cases, testlog.json meson's own word on each binary.

One line for each test case: STATUS, SUITE/TEST.CASE, reason, separated by tabs.  A binary that failed without a failed
case (a crash, a sanitizer's report at the end) has a line of its own.  STATUS is meson's exit status.
"""
import json
import sys
import xml.etree.ElementTree as ET

logs, suite, status = sys.argv[1:]
failed = False
try:
    with open(f'{logs}/testlog.json') as f:
        for line in f:
            test = json.loads(line)
            code = test.get('returncode', 0)
            # gtest says 1 for failed cases, which are named below.
            if test['result'] in ('TIMEOUT', 'INTERRUPT') or code not in (0, 1):
                failed = True
                print(f'FAIL\t{suite}/{test["name"]}\t{test["result"].lower()}, exit status {code}')
    suites = list(ET.parse(f'{logs}/testlog.junit.xml').getroot())
except (OSError, ValueError, ET.ParseError) as e:
    suites = []
    print(f'FAIL\t{suite}/unit\tno results: {e}')
    failed = True
for s in suites:
    for case in s.iter('testcase'):
        name = f'{suite}/{case.get("classname", s.get("name"))}.{case.get("name")}'.replace('\t', ' ')
        kind = {child.tag: child for child in case}
        bad = next((kind[k] for k in ('failure', 'error') if k in kind), None)
        if bad is not None:
            text = ' '.join((bad.get('message') or bad.text or '').split())[:200]
            if text or not failed:                   # without a text it is a binary that is named above already
                print(f'FAIL\t{name}\t{text}')
            failed = True
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
