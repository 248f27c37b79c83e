#!/usr/bin/python3
"""CDI devices and OCI hooks in real containers: what specifications bring, where they are looked for, and what is refused."""
import json
import os
import shutil
import tempfile

import grpc

import cri
import running

CDI = f'{running.CONFIG_DIR}/cdi'


class Devices(running.Running):
    def setUp(self):
        super().setUp()
        self.files = tempfile.mkdtemp(prefix='userpod-test-devices-', dir='/var/tmp')
        self.addCleanup(shutil.rmtree, self.files)
        self.made = [d for d in (CDI, running.CONFIG_DIR) if not os.path.isdir(d)]
        os.makedirs(CDI, exist_ok=True)
        self.addCleanup(lambda: [os.rmdir(d) for d in self.made])

    def write(self, path, text, mode=0o644):
        with open(path, 'w', encoding='utf-8') as f:
            f.write(text)
        os.chmod(path, mode)
        return path

    def spec(self, name, text):
        path = self.write(f'{CDI}/{name}', text if isinstance(text, str) else json.dumps(text))
        self.addCleanup(os.unlink, path)
        return path

    def program(self, name, script):
        return self.write(f'{self.files}/{name}', f'#!/bin/sh\n{script}\n', 0o755)

    def run_to_end(self, pod, script, name='main', **more):
        """Its log's lines."""
        container = self.container(pod, script, name, **more)
        cri.wait_until(lambda: self.state(container) == 'EXITED', what='the exit')
        return self.texts(name=name)

    def refusal(self, pod, **more):
        with self.assertRaises(grpc.RpcError) as caught:
            self.container(pod, 'true', 'refused', start=False, **more)
        return caught.exception.code(), caught.exception.details()


class Cdi(Devices):
    def test_edits(self):
        """All that a YAML specification can bring, in a container; that of the whole kind once, that of others not."""
        self.write(f'{self.files}/library', 'library\n')
        hook = self.program('hook', f'cat > {self.files}/state; echo "$1 $MADE" >> {self.files}/ran')
        self.spec('test.yaml', f'''
cdiVersion: 0.7.0
kind: userpod.test/device
containerEdits:
  env: [ALL=yes, PATH=/bin:/of-cdi]
  hooks:
  - {{hookName: createRuntime, path: {hook}, args: [hook, kind], env: [MADE=by-cdi], timeout: 20}}
devices:
- name: 0
  containerEdits:
    env: [ZERO=0]
    deviceNodes:
    - {{path: /dev/of-cdi, hostPath: /dev/fuse, permissions: rw, uid: 0}}
    - path: /dev/zero
    additionalGids: [44]
    mounts:
    - {{hostPath: {self.files}/library, containerPath: /usr/lib/library, options: [ro, nosuid, bind]}}
    - {{hostPath: tmpfs, containerPath: /scratch, type: tmpfs, options: [nosuid, size=1m]}}
- name: one
  containerEdits:
    env: [ONE=1, ZERO=1]
    hooks:
    - {{hookName: poststop, path: {hook}, args: [hook, stopped]}}
- name: two
  containerEdits: {{env: [TWO=2]}}
''')
        pod = self.pod()
        names = [{'name': f'userpod.test/device={n}'} for n in ('0', 'one', 'one')]
        lines = self.run_to_end(
            pod, 'echo $ALL $ZERO $ONE "$TWO" $PATH; test -c /dev/of-cdi && stat -c %t:%T /dev/of-cdi; : < /dev/of-cdi && echo opened;'
                 'cat /usr/lib/library; touch /usr/lib/library 2>&1; echo x > /scratch/x && echo wrote; id -G', CDI_devices=names, envs=[{'key': 'ZERO', 'value': b'9'}])
        self.assertEqual(lines, ['yes 1 1  /bin:/of-cdi', 'a:e5', 'opened', 'library', 'touch: /usr/lib/library: Read-only file system', 'wrote', '0 44'])
        with open(f'{self.files}/state', encoding='utf-8') as f:
            self.assertEqual(json.load(f)['ociVersion'][:2], '1.')
        self.cri.RemovePodSandbox(pod_sandbox_id=pod)
        with open(f'{self.files}/ran', encoding='utf-8') as f:
            self.assertEqual(f.read(), 'kind by-cdi\nstopped \n')

    def test_by_annotation(self):
        self.spec('test.json', {'cdiVersion': '0.6.0', 'kind': 'userpod.test/device', 'devices': [
            {'name': 'one', 'containerEdits': {'env': ['ONE=1']}}, {'name': 'two', 'containerEdits': {'env': ['TWO=2']}}]})
        lines = self.run_to_end(self.pod(), 'echo $ONE $TWO', annotations={'cdi.k8s.io/plugin': 'userpod.test/device=one,userpod.test/device=two'},
                                CDI_devices=[{'name': 'userpod.test/device=one'}])
        self.assertEqual(lines, ['1 2'])

    def test_written_in_the_node(self):
        """Where a driver's pod writes /var/run/cdi; the user's own counts more."""
        text = json.dumps({'cdiVersion': '0.6.0', 'kind': 'userpod.test/device', 'devices': [
            {'name': n, 'containerEdits': {'env': ['FROM=node']}} for n in ('one', 'two')]})
        running.enter('sh', '-c', f"mkdir -p /run/cdi && echo '{text}' > /run/cdi/userpod-test.json")
        self.addCleanup(running.enter, 'sh', '-c', 'rm /run/cdi/userpod-test.json; rmdir /run/cdi || true')
        self.spec('own.json', text.replace('FROM=node', 'FROM=user').replace('"two"', '"three"'))
        pod = self.pod()
        for name, origin in (('one', 'user'), ('two', 'node')):
            self.assertEqual(self.run_to_end(pod, 'echo $FROM', name, CDI_devices=[{'name': f'userpod.test/device={name}'}]), [origin])

    def test_refused(self):
        """By name, with the file; what works is not in the way."""
        broken = self.spec('broken.yaml', 'cdiVersion: 0.6.0\nkind: [')
        fine = self.spec('test.json', {'cdiVersion': '0.7.0', 'kind': 'userpod.test/device', 'devices': [
            {'name': 'fine', 'containerEdits': {'env': ['A=1']}},
            {'name': 'closed', 'containerEdits': {'deviceNodes': [{'path': '/dev/mem'}]}},
            {'name': 'none', 'containerEdits': {'deviceNodes': [{'path': '/dev/not-there'}]}},
            {'name': 'mount', 'containerEdits': {'mounts': [{'hostPath': '/not/there', 'containerPath': '/x'}]}},
            {'name': 'own', 'containerEdits': {'mounts': [{'hostPath': cri.RUNTIME_DIR, 'containerPath': '/x'}]}},
            {'name': 'hook', 'containerEdits': {'hooks': [{'hookName': 'createRuntime', 'path': '/not/there'}]}},
            {'name': 'group', 'containerEdits': {'additionalGids': [4000000000]}}]})
        rdt = self.spec('rdt.json', {'cdiVersion': '0.7.0', 'kind': 'userpod.test/rdt', 'devices': [
            {'name': 'rdt', 'containerEdits': {'intelRdt': {'closID': 'a'}}}]})
        pod = self.pod()
        self.assertEqual(self.run_to_end(pod, 'echo $A', 'fine', CDI_devices=[{'name': 'userpod.test/device=fine'}]), ['1'])
        invalid, denied = cri.Code.INVALID_ARGUMENT, cri.Code.PERMISSION_DENIED
        for name, code, words in (
                ('userpod.test/device=missing', invalid, (broken, 'line 2', CDI)), ('userpod.test/rdt=rdt', invalid, (rdt, 'intelRdt needs root')),
                ('nonsense', invalid, ('VENDOR/CLASS=DEVICE',)), ('userpod.test/device=none', invalid, (fine, '/dev/not-there')),
                ('userpod.test/device=mount', invalid, (fine, '/not/there')), ('userpod.test/device=hook', invalid, (fine, '/not/there')),
                ('userpod.test/device=own', denied, (fine, 'own directory')), ('userpod.test/device=group', cri.Code.FAILED_PRECONDITION, (fine, 'subgid')),
                ('userpod.test/device=closed', denied, (fine, '/dev/mem', 'administrator'))):
            if name.endswith('closed') and not os.path.exists('/dev/mem'):
                continue
            got, text = self.refusal(pod, CDI_devices=[{'name': name}])
            self.assertEqual(got, code, text)
            for word in (name, *words):
                self.assertIn(word, text)
        self.assertEqual(len(self.cri.ListContainers(filter={'pod_sandbox_id': pod}).containers), 1)


class Hooks(Devices):
    def setUp(self):
        super().setUp()
        self.hooks = [f'{self.files}/{name}' for name in ('first', 'second')]
        for directory in self.hooks:
            os.mkdir(directory)
        drop_ins = f'{running.CONFIG_DIR}/userpod.toml.d'
        os.makedirs(drop_ins, exist_ok=True)
        self.write(f'{drop_ins}/99-test-hooks.toml', f'hooks-dir = {json.dumps(self.hooks)}\n')
        self.addCleanup(self.connect)
        self.addCleanup(running.restart_daemon)
        self.addCleanup(shutil.rmtree, drop_ins)
        self.addCleanup(self.remove_pods)
        running.restart_daemon()
        self.connect()

    def hook(self, path, program, when, *stages, **more):
        self.write(path, json.dumps({'version': '1.0.0', 'hook': {'path': program, **more}, 'when': when, 'stages': stages}))

    def ran(self):
        with open(f'{self.files}/ran', encoding='utf-8') as f:
            return f.read().split('\n')[:-1]

    def test_run(self):
        """In order, where they are meant, in the node: with the state of the container that is being made."""
        program = self.program('hook', f'id=$(grep -o "[0-9a-f]\\{{64\\}}" | head -n 1); echo "$1 $WHO $id" >> {self.files}/ran')
        first, second = self.hooks
        self.hook(f'{first}/20-B.json', program, {'always': True}, 'createRuntime', args=['hook', 'b'], env=['WHO=me', 'PATH=/usr/bin:/bin'], timeout=20)
        self.hook(f'{first}/10-a.json', program, {'annotations': {'^org\\.example\\.': 'gpu'}}, 'createRuntime', 'poststop', args=['hook', 'a'])
        self.hook(f'{first}/30-c.json', program, {'always': True}, 'createRuntime', args=['hook', 'hidden'])
        self.hook(f'{second}/30-c.json', program, {'hasBindMounts': True, 'commands': ['^/bin/sh$']}, 'createContainer', args=['hook', 'c'])
        pod = self.pod(annotations={'org.example.pod': 'a gpu'})
        container = self.container(pod, 'true', mounts=[{'container_path': '/x', 'host_path': self.files}])
        cri.wait_until(lambda: self.state(container) == 'EXITED', what='the exit')
        self.cri.RemoveContainer(container_id=container)
        self.assertEqual(self.ran(), [f'a  {container}', f'b me {container}', f'c  {container}', f'a  {container}'])
        os.unlink(f'{self.files}/ran')
        other = self.container(self.pod('other'), 'true', start=False)
        self.assertEqual(self.ran(), [f'b me {other}'])

    def test_refused(self):
        """The container is not made, and the error names the file; once it is mended, no restart is needed."""
        pod, file = self.pod(), f'{self.hooks[0]}/hook.json'
        failing = self.program('failing', 'exit 3')
        precondition = cri.Code.FAILED_PRECONDITION
        for text, program, when, code, words in (
                ('{', '', {}, precondition, (file, 'line 1', 'correct it')),
                ('', '/bin/true', {'commands': ['(']}, precondition, (file, 'when.commands', 'missing )')),
                ('', '/not/there', {'always': True}, precondition, (file, '/not/there', 'install it')),
                ('', failing, {'always': True}, cri.Code.UNKNOWN, ('hook',))):
            if text:
                self.write(file, text)
            else:
                self.hook(file, program, when, 'createRuntime')
            got, said = self.refusal(pod)
            self.assertEqual(got, code, said)
            for word in words:
                self.assertIn(word, said)
            self.assertEqual(list(self.cri.ListContainers().containers), [])
        self.hook(file, '/not/there', {'commands': ['never']}, 'createRuntime')
        self.assertEqual(self.run_to_end(pod, 'echo runs'), ['runs'])


if __name__ == '__main__':
    running.main()
