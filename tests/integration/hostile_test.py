#!/usr/bin/python3
"""Images made to do harm, and requests that make no sense: a clear error, nothing left of it, and all goes on."""
import os
import socket
import unittest

import cri
import running

with_hostile = unittest.skipUnless(os.environ.get('USERPOD_REGISTRY_DIR'), 'USERPOD_REGISTRY_DIR is not set')


def outside():
    """Where the images aim: nothing of theirs may be there."""
    places = ('/escape', '/absolute', '/var/tmp/userpod-escape', f'{cri.DATA_DIR}/escape', f'{cri.DATA_DIR}/layers/escape')
    return [p for p in places if os.path.lexists(p) or not running.enter('sh', '-c', f'[ ! -e {p} ] || echo there') == '']


class Images(running.Running):
    def setUp(self):
        super().setUp()
        self.before = running.stored()

    def tearDown(self):
        self.assertEqual(running.stored(), self.before)
        self.assertEqual(outside(), [])
        self.assertEqual([i.id for i in self.cri.ListImages().images], [self.image])
        # The next pull and a container of it.
        ref = self.cri.PullImage(image={'image': f'{cri.REGISTRY}/test/busybox:2'}).image_ref
        container = self.container(self.pod('after'), 'cat /version', 'after', image={'image': ref})
        cri.wait_until(lambda: self.state(container) == 'EXITED', what='the exit')
        self.assertEqual(self.texts('after', 'after'), ['2'])
        self.cri.RemoveContainer(container_id=container)
        self.cri.RemoveImage(image={'image': ref})
        self.assertEqual(running.stored(), self.before)

    def refused(self, name, *words):
        """The pull fails, with one of the words in its message."""
        with self.assertRaises(cri.grpc.RpcError, msg=name) as failed:
            self.cri.PullImage(image={'image': f'{cri.REGISTRY}/hostile/{name}'})
        text = failed.exception.details()
        self.assertEqual(failed.exception.code(), cri.Code.UNKNOWN, text)
        self.assertTrue(any(w in text.lower() for w in words), f'{name}: {text}')
        self.assertEqual(running.stored(), self.before, name)

    def refused_or_harmless(self, name, check):
        """The pull fails, or the shell command check, run in the node, holds for what it stored: $1 is a layer."""
        with self.subTest(name):
            try:
                ref = self.cri.PullImage(image={'image': f'{cri.REGISTRY}/hostile/{name}'}).image_ref
            except cri.grpc.RpcError as e:
                print(f'{name}: {e.details()}')
                self.assertEqual(e.code(), cri.Code.UNKNOWN, e.details())
                self.assertIn(f'hostile/{name}', e.details())
                return
            try:
                self.assertEqual(outside(), [])
                layers = sorted(set(running.stored()) - set(self.before))
                self.assertTrue([p for p in layers if '/layers/' in p], layers)
                print(f'{name}: unpacked')
                running.enter('sh', '-c', check, 'sh', *[p for p in layers if '/layers/' in p])
            finally:
                self.cri.RemoveImage(image={'image': ref})

    @with_hostile
    def test_contents_that_are_not_what_was_promised(self):
        self.refused('wrong-diffid', 'diff')
        self.refused('few-diffids', 'diff', 'layers')
        self.refused('wrong-digest', 'digest', 'sha256')

    @with_hostile
    def test_streams_that_break(self):
        self.refused('truncated', 'trunc', 'short', 'end', 'incomplete')
        self.refused('not-gzip', 'gzip', 'compress', 'tar')

    @with_hostile
    def test_paths_that_lead_outside(self):
        self.refused_or_harmless('dotdot', '[ ! -e "$1/../escape" ]')
        self.refused_or_harmless('absolute', 'grep -q inside "$1/absolute"')
        self.refused_or_harmless('symlink', '[ ! -e /var/tmp/userpod-escape ]')
        self.refused_or_harmless('symlink-layers', '[ ! -e /var/tmp/userpod-escape ]')
        self.refused_or_harmless('hardlink', '[ ! -s "$1/passwd" ]')

    @with_hostile
    def test_devices_and_odd_whiteouts(self):
        self.refused_or_harmless('device', '[ ! -c "$1/dev/mem" ] && [ ! -b "$1/dev/disk" ]')
        self.refused_or_harmless('whiteout', 'grep -q kept "$1/a/kept"')


class Requests(running.Running):
    def refused(self, call, code=cri.Code.INVALID_ARGUMENT, word='', **fields):
        with self.assertRaises(cri.grpc.RpcError, msg=str(fields)) as failed:
            call(**fields)
        self.assertEqual(failed.exception.code(), code, failed.exception.details())
        self.assertIn(word, failed.exception.details())

    def test_pods(self):
        good = {'metadata': {'name': 'p', 'namespace': 'n', 'uid': 'u'}, 'linux': {}}

        def linux(**security):
            return {'linux': {'security_context': security}}
        self.refused(self.cri.RunPodSandbox)
        for word, change in (
                ('metadata', {'metadata': {}}), ('metadata.name', {'metadata': {'namespace': 'n', 'uid': 'u'}}),
                ('metadata.uid', {'metadata': {'name': 'a', 'namespace': 'n'}}),
                ('metadata.name', {'metadata': {'name': '../a', 'namespace': 'n', 'uid': 'u'}}),
                ('metadata.name', {'metadata': {'name': 'x' * 5000, 'namespace': 'n', 'uid': 'u'}}),
                ('hostname', {'hostname': 'a b'}), ('hostname', {'hostname': 'a\n127.0.0.1 evil'}),
                ('log_directory', {'log_directory': 'relative'}), ('log_directory', {'log_directory': '/var/tmp/../../etc'}),
                ('dns_config', {'dns_config': {'servers': ['1.1.1.1\noptions x']}}),
                ('labels', {'labels': {'k': 'v' * 5000}}),
                ('host_port', {'port_mappings': [{'container_port': 80, 'host_port': 70000}]}),
                ('sysctl', {'linux': {'sysctls': {'../../etc/passwd': '1'}}}),
                ('run_as_group', linux(run_as_group={'value': 1})),
                ('', {'linux': {'cgroup_parent': '/../../..'}}),
                *(('cgroup_parent', {'linux': {'cgroup_parent': own}}) for own in
                  ('/init', '/uplink', '/mon', '/fuse/x', '/exec'))):
            with self.subTest(change=str(change)[:100]):
                self.refused(self.cri.RunPodSandbox, word=word, config={**good, **change})
        self.assertNotEqual(cri.code_of(self.cri.RunPodSandbox, config=good, runtime_handler='nosuch'), cri.Code.OK)
        self.assertEqual(len(self.cri.ListPodSandbox().items), 0)

    def test_containers(self):
        pod = self.pod()
        good = {'metadata': {'name': 'c'}, 'image': {'image': self.image}, 'command': ['true'], 'log_path': 'c.log', 'linux': {}}

        def create(config, **more):
            return dict(pod_sandbox_id=pod, sandbox_config=self.configs[pod], config=config, **more)

        def linux(**security):
            return {'linux': {'security_context': security}}
        self.refused(self.cri.CreateContainer, pod_sandbox_id=pod)
        self.refused(self.cri.CreateContainer, pod_sandbox_id=pod, config=good)
        for word, change in (
                ('metadata', {'metadata': {}}), ('image', {'image': {}}), ('log_path', {'log_path': '../../x.log'}),
                ('log_path', {'log_path': '/x.log'}), ('working_dir', {'working_dir': 'relative'}),
                ('command', {'command': ['a\0b']}), ('envs', {'envs': [{'key': 'A=B', 'value': b''}]}),
                ('envs', {'envs': [{'key': 'A', 'value': b'a\0b'}]}),
                ('container_path', {'mounts': [{'container_path': 'x', 'host_path': '/var/tmp'}]}),
                ('host_path', {'mounts': [{'container_path': '/x', 'host_path': 'x'}]}),
                ('readonly', {'mounts': [{'container_path': '/x', 'image': {'image': self.image}}]}),
                ('image_sub_path', {'mounts': [{'container_path': '/x', 'readonly': True, 'image': {'image': self.image}, 'image_sub_path': '../x'}]}),
                ('recursive_read_only', {'mounts': [{'container_path': '/x', 'host_path': '/var/tmp', 'recursive_read_only': True}]}),
                ('run_as_group', linux(run_as_group={'value': 1})), ('privileged', linux(privileged=True)),
                ('run_as_user', linux(run_as_user={'value': -1})),
                ('NOSUCH', linux(capabilities={'add_capabilities': ['NOSUCH']}))):
            with self.subTest(change=str(change)[:100]):
                self.refused(self.cri.CreateContainer, word=word, **create({**good, **change}))
        self.refused(self.cri.CreateContainer, cri.Code.NOT_FOUND, **{**create(good), 'pod_sandbox_id': 'f' * 64})
        self.refused(self.cri.CreateContainer, cri.Code.NOT_FOUND, 'nosuch', **create({**good, 'image': {'image': 'nosuch:1'}}))
        missing = {**good, 'mounts': [{'container_path': '/x', 'host_path': '/no/such/place'}]}
        self.assertNotEqual(cri.code_of(self.cri.CreateContainer, **create(missing)), cri.Code.OK)
        # No container is left, nor its log or its name.
        self.assertEqual(len(self.cri.ListContainers().containers), 0)
        self.assertEqual(os.listdir(f'{self.logs}/pod'), [])
        container = self.cri.CreateContainer(**create(good)).container_id
        self.refused(self.cri.StopContainer, word='timeout', container_id=container, timeout=-1)
        self.refused(self.cri.ExecSync, word='timeout', container_id=container, cmd=['true'], timeout=-1)
        self.refused(self.cri.ContainerStatus, container_id='x' * 65)

    def test_images(self):
        for name in ('', 'UPPER/CASE:1', 'a b', 'x@sha256:12', '-', 'a' * 5000, 'a/../b', 'http://x/y'):
            with self.subTest(name[:20]):
                self.refused(self.cri.PullImage, image={'image': name})
        self.refused(self.cri.ImageStatus, image={'image': ''})
        self.refused(self.cri.RemoveImage, image={'image': ''})
        self.refused(self.cri.PullImage, image={'image': running.IMAGE}, auth={'auth': '%%%'})

    def test_bytes_that_are_no_request(self):
        raw = self.cri.channel.unary_unary('/runtime.v1.RuntimeService/RunPodSandbox', lambda b: b, lambda b: b)
        for data in (b'\xff' * 100, b'\x0a\xff\xff\xff\xff\x0f', os.urandom(1000)):
            with self.assertRaises(cri.grpc.RpcError):
                raw(data, timeout=20)
        unknown = self.cri.channel.unary_unary('/runtime.v1.RuntimeService/NoSuch', lambda b: b, lambda b: b)
        self.assertEqual(cri.code_of(unknown, b'', timeout=20), cri.Code.UNIMPLEMENTED)
        self.assertEqual(self.cri.Version().runtime_name, 'userpod')

    def test_a_client_that_speaks_something_else(self):
        for data in (b'GET / HTTP/1.1\r\n\r\n', os.urandom(5000), b''):
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(cri.SOCKET)
                s.sendall(data)
        self.assertEqual(self.cri.Version().runtime_name, 'userpod')


if __name__ == '__main__':
    running.main()
