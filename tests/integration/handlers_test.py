#!/usr/bin/python3
"""Runtime handlers: runc beside crun does all that crun does; what each can is told as it is."""
import os
import re
import shutil
import stat
import tempfile
import unittest

import cri
import running

STAY = 'trap "echo bye; exit 7" TERM; echo up; while :; do sleep 0.1; done'
# An OCI runtime that knows no `features` and is older than recursive read-only mounts.
OLD = '#!/bin/sh\n[ "$1" != --version ] || { echo "old version 0.1"; exit; }\n[ "$1" != features ] || exit 1\nexec /usr/bin/crun "$@"\n'


class Handlers(running.Running):
    @classmethod
    def setUpClass(cls):
        cls.program = tempfile.mkdtemp(prefix='userpod-test-runtime-', dir='/var/tmp')
        cls.addClassCleanup(shutil.rmtree, cls.program)
        os.chmod(cls.program, 0o755)
        with open(f'{cls.program}/old', 'w', encoding='utf-8') as f:
            f.write(OLD)
        os.chmod(f'{cls.program}/old', stat.S_IRWXU)
        cls.enterClassContext(running.settings(f'[runtimes.runc]\n[runtimes.old]\npath = "{cls.program}/old"\n'))

    def pod(self, name='pod', handler='runc', **fields):
        config = {'metadata': {'name': name, 'namespace': 'test', 'uid': f'{self.id()}-{name}', 'attempt': 0},
                  'log_directory': f'{self.logs}/{name}', 'linux': {}, **fields}
        pod = self.cri.RunPodSandbox(config=config, runtime_handler=handler).pod_sandbox_id
        self.configs[pod] = config
        return pod

    def exec(self, container, *command, **fields):
        answer = self.cri.ExecSync(container_id=container, cmd=command, **fields)
        return answer.exit_code, answer.stdout, answer.stderr

    def refused(self, code, words, call, *args, **fields):
        with self.assertRaises(cri.grpc.RpcError) as caught:
            call(*args, **fields)
        self.assertEqual(caught.exception.code(), code, caught.exception.details())
        self.assertRegex(caught.exception.details(), words)

    def test_features(self):
        status = self.cri.Status()
        features = {handler.name: handler.features for handler in status.runtime_handlers}
        self.assertEqual(set(features), {'', 'crun', 'runc', 'old'})
        kernel = tuple(map(int, re.findall(r'\d+', os.uname().release)[:2])) >= (5, 12)
        self.assertEqual({name: f.recursive_read_only_mounts for name, f in features.items()},
                         {'': kernel, 'crun': kernel, 'runc': kernel, 'old': False})
        self.assertFalse(any(f.user_namespaces for f in features.values()))
        self.assertTrue(status.features.supplemental_groups_policy)
        self.assertFalse(status.features.user_namespaces_host_network)

    def test_unknown_handler(self):
        self.refused(cri.Code.INVALID_ARGUMENT, 'runtime_handler is "kata", which is not configured', self.pod, handler='kata')

    def test_recursive_read_only(self):
        """With each runtime that says so, a mount below the mount cannot be written either."""
        source = tempfile.mkdtemp(prefix='userpod-test-rro-', dir='/var/tmp')
        self.addCleanup(shutil.rmtree, source)
        os.mkdir(f'{source}/below')
        running.enter('mount', '-t', 'tmpfs', 'tmpfs', f'{source}/below')
        self.addCleanup(running.enter, 'umount', f'{source}/below')
        mount = {'host_path': source, 'container_path': '/m', 'readonly': True}
        script = 'touch /m/x 2>&1; touch /m/below/x && echo written; rm -f /m/below/x; echo end'
        for handler in ('crun', 'runc'):
            pod = self.pod(handler, handler)
            for name, recursive, written in (('plain', False, True), ('recursive', True, False)):
                self.container(pod, script, name, mounts=[{**mount, 'recursive_read_only': recursive}])
                self.wait_for_line('end', pod=handler, name=name)
                texts = self.texts(handler, name)
                self.assertIn('Read-only file system', texts[0])
                self.assertEqual('written' in texts, written, (handler, name, texts))
        self.refused(cri.Code.UNKNOWN, '^RROUnsupported: .*mount of /var/tmp', self.container, self.pod('old', 'old'), 'true',
                     mounts=[{**mount, 'recursive_read_only': True}])

    def test_life(self):
        pod = self.pod()
        self.assertEqual(self.pod_status(pod).runtime_handler, 'runc')
        container = self.container(pod, STAY, envs=[{'key': 'WORD', 'value': b'of mouth'}], start=False)
        self.assertEqual(self.state(container), 'CREATED')
        self.cri.StartContainer(container_id=container)
        self.wait_for_line('up')
        self.assertEqual(self.exec(container, 'sh', '-c', 'echo $WORD; echo bad >&2; exit 5'), (5, b'of mouth\n', b'bad\n'))
        self.assertEqual(self.exec(container, 'sh', '-c', 'cat /proc/self/status | grep -E "Seccomp:|CapEff"')[0], 0)
        self.refused(cri.Code.UNKNOWN, 'no such file|not found', self.exec, container, '/no/such/program')
        self.refused(cri.Code.DEADLINE_EXCEEDED, 'did not end within 1 s', self.exec, container, 'sh', '-c',
                     'sleep 777 & sleep 777', timeout=1)
        self.assertNotIn(b'777', self.exec(container, 'ps', '-o', 'args')[1])
        cri.systemctl('restart', running.DAEMON)
        self.connect()
        self.assertEqual(self.exec(container, 'true')[0], 0)
        self.cri.StopContainer(container_id=container, timeout=10)
        self.assertEqual(self.status(container).exit_code, 7)
        self.assertEqual(self.texts()[-1], 'bye')
        self.cri.RemoveContainer(container_id=container)

    def test_kill_and_removal_of_what_runs(self):
        pod = self.pod()
        container = self.container(pod, 'trap "" TERM; echo up; while :; do sleep 0.1; done')
        self.wait_for_line('up')
        self.cri.StopContainer(container_id=container, timeout=0)
        self.assertEqual(self.status(container).exit_code, 137)
        self.container(pod, STAY, 'other')
        self.cri.RemovePodSandbox(pod_sandbox_id=pod)
        self.assertEqual(len(self.cri.ListContainers(filter={'pod_sandbox_id': pod}).containers), 0)

    def test_no_such_program(self):
        """runc looks for the program already when it creates; nothing is left then."""
        pod = self.pod()
        self.refused(cri.Code.UNKNOWN, 'runc create: .*"/no/such": no such file or directory$|stat /no/such: no such file', self.cri.CreateContainer,
                     pod_sandbox_id=pod, sandbox_config=self.configs[pod],
                     config={'metadata': {'name': 'none'}, 'image': {'image': self.image}, 'command': ['/no/such'], 'linux': {}})
        self.assertEqual(len(self.cri.ListContainers(filter={'pod_sandbox_id': pod}).containers), 0)

    def test_security(self):
        """The context of the CRI means the same to both."""
        script = 'id -u; grep -E "^(Seccomp|NoNewPrivs|CapEff|CapBnd):" /proc/self/status; touch /x 2>/dev/null || echo readonly; ' \
                 'cat /proc/kcore >/dev/null 2>&1 || echo masked; echo end'
        context = {'run_as_user': {'value': 1000}, 'no_new_privs': True, 'readonly_rootfs': True, 'seccomp': {},
                   'capabilities': {'add_capabilities': ['NET_ADMIN'], 'drop_capabilities': ['CHOWN']}, 'masked_paths': ['/proc/kcore']}
        for handler in ('crun', 'runc'):
            self.container(self.pod(handler, handler), script, linux={'security_context': context})
            self.wait_for_line('end', pod=handler)
        self.assertEqual(self.texts('runc'), self.texts('crun'))
        self.assertIn('readonly', self.texts('runc'))


if __name__ == '__main__':
    if not shutil.which('runc') and not os.path.exists('/usr/sbin/runc'):
        cri.skip('runc is not installed')
    running.main()
