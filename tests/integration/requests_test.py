#!/usr/bin/python3
"""Every call of the CRI with every field of its request wrong in every way: an answer that names the field, never a crash."""
import copy
import os
import re
import unittest

import cri
import running

Code = cri.Code
D = cri.api().DESCRIPTOR
F = next(iter(cri.api().VersionRequest.DESCRIPTOR.fields)).__class__
MEGABYTE = 'x' * (1 << 20)
STRINGS = ('', MEGABYTE, 'a\0b', '../../../../etc/passwd', '/../..', 'line\nbreak\x1b[31m', '%s%n')
NUMBERS = {F.CPPTYPE_INT32: (-1, -2**31, 2**31 - 1), F.CPPTYPE_INT64: (-1, -2**63, 2**63 - 1), F.CPPTYPE_UINT32: (0, 2**32 - 1),
           F.CPPTYPE_UINT64: (0, 2**64 - 1), F.CPPTYPE_BOOL: (True, False), F.CPPTYPE_ENUM: (-1, 9999), F.CPPTYPE_DOUBLE: (-1.0, float('nan')),
           F.CPPTYPE_FLOAT: (-1.0, float('nan'))}
# What they hold is the pod's own, checked where it is used, or for another system.
SHALLOW = {'sandbox_config', 'windows'}
NOBODY = 'f' * 64


def values(field):
    if field.cpp_type == F.CPPTYPE_STRING:
        return (b'', b'\xff\xfe', b'\0', MEGABYTE.encode()) if field.type == F.TYPE_BYTES else STRINGS
    return NUMBERS[field.cpp_type]


def variants(message, path=()):
    """(path, what, change): change(message) makes one thing wrong in a copy of the request."""
    for field in message.DESCRIPTOR.fields:
        here = (*path, field.name)
        entry = field.message_type if field.cpp_type == F.CPPTYPE_MESSAGE else None
        if entry and entry.GetOptions().map_entry:
            if entry.fields_by_name['value'].cpp_type != F.CPPTYPE_STRING:
                continue
            for what, pairs in (('10,000 entries', {f'k{i}': 'v' for i in range(10000)}), ('long key', {MEGABYTE: ''}), ('long value', {'k': MEGABYTE}),
                                ('odd key', {'../a b\0\n': '1'}), ('empty key', {'': '\0'})):
                yield here, what, lambda m, f=field.name, p=pairs: getattr(m, f).update(p)
        elif field.label == F.LABEL_REPEATED:
            if entry:
                yield here, '10,000 empty', lambda m, f=field.name: [getattr(m, f).add() for _ in range(10000)]
                first = getattr(message, field.name)[0] if getattr(message, field.name) else getattr(cri.api(), entry.name)()
                for sub, what, change in variants(first, here):
                    def inside(m, f=field.name, c=change):
                        c(getattr(m, f)[0] if getattr(m, f) else getattr(m, f).add())
                    yield sub, what, inside
            else:
                for value in values(field):
                    yield here, f'[{value!r:.20}]', lambda m, f=field.name, v=value: getattr(m, f).append(v)
                yield here, '10,000', lambda m, f=field.name, v=values(field)[-1]: getattr(m, f).extend([v] * 10000)
        elif entry:
            yield here, 'missing', lambda m, f=field.name: m.ClearField(f)
            yield here, 'empty', lambda m, f=field.name: (m.ClearField(f), getattr(m, f).SetInParent())
            if field.name not in SHALLOW:
                for sub, what, change in variants(getattr(message, field.name), here):
                    yield sub, what, lambda m, f=field.name, c=change: c(getattr(m, f))
        else:
            for value in values(field):
                yield here, f'{value!r:.20}', lambda m, f=field.name, v=value: setattr(m, f, v)


def plain(text):
    return re.sub(r'[^a-z]', '', text.lower())


def rss(pid):
    """KiB of the daemon: both processes."""
    return sum(int(n) for n in cri.run('ps', '-o', 'rss=', '-p', str(pid), '--ppid', str(pid)).split())


class Requests(running.Running):
    def setUp(self):
        super().setUp()
        self.pid = running.main_pid()
        self.good_pod = self.pod('good')
        self.running = self.container(self.good_pod, 'trap "exit 0" TERM; while :; do usleep 50000; done', 'running')
        self.wrong = []

    def tearDown(self):
        self.assertEqual(running.main_pid(), self.pid)
        self.assertEqual(self.state(self.running), 'RUNNING')
        self.assertEqual(self.cri.ExecSync(container_id=self.running, cmd=['echo', 'fine']).stdout, b'fine\n')

    def call(self, name, request):
        call = self.cri.methods[name][1]
        answer = call(request, timeout=1 if name == 'GetContainerEvents' else 60)
        return answer if hasattr(answer, 'DESCRIPTOR') else list(answer)

    def judge(self, name, path, what, error):
        """An error is fine when it is the caller's, and says where."""
        code, text = error.code(), error.details() or ''
        where = f'{name} {".".join(path)} {what}'
        if code in (Code.INTERNAL, Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED, Code.DATA_LOSS):
            self.wrong.append(f'{where}: {code} {text[:200]}')
        elif code == Code.INVALID_ARGUMENT and not any(plain(part).removesuffix('s') in plain(text) for part in path[-3:]):
            self.wrong.append(f'{where}: does not name the field: {text[:200]}')
        elif code != Code.UNIMPLEMENTED and not text.strip():
            self.wrong.append(f'{where}: {code} without a text')
        elif len(text) > 4096:
            self.wrong.append(f'{where}: a text of {len(text)} characters')
        elif code == Code.UNKNOWN:
            print(f'{where}: {text[:300]}')

    def each(self, name, good, undo=lambda answer: None):
        """All variants of the good request, which itself works before and after."""
        request = cri.api().__dict__[self.cri.methods[name][0].DESCRIPTOR.name](**good)
        count = refused = 0
        for number, (path, what, change) in enumerate(variants(request)):
            if cri.SANITIZE and number % 4:
                continue
            bad = copy.deepcopy(request)
            change(bad)
            count += 1
            try:
                undo(self.call(name, bad))
            except cri.grpc.RpcError as e:
                refused += 1
                self.judge(name, path, what, e)
        try:
            undo(self.call(name, request))
        except cri.grpc.RpcError as e:
            if e.code() != Code.UNIMPLEMENTED and not (name == 'GetContainerEvents' and e.code() == Code.DEADLINE_EXCEEDED):
                self.wrong.append(f'{name}: the good request fails: {e.code()} {e.details()}')
        print(f'{name}: {count} requests, {refused} refused')

    def finish(self):
        self.assertEqual(self.wrong, [], '\n'.join(self.wrong))

    def test_pods(self):
        config = {'metadata': {'name': 'p', 'namespace': 'n', 'uid': 'u'}, 'hostname': 'h', 'log_directory': f'{self.logs}/p',
                  'dns_config': {'servers': ['10.0.2.3'], 'searches': ['example.org'], 'options': ['ndots:5']}, 'labels': {'a': 'b'}, 'annotations': {'c': 'd'},
                  'port_mappings': [{'container_port': 80}], 'linux': {'sysctls': {'net.ipv4.ip_unprivileged_port_start': '0'}, 'security_context': {'namespace_options': {}}}}
        before = rss(self.pid)
        self.each('RunPodSandbox', {'config': config}, lambda r: self.cri.RemovePodSandbox(pod_sandbox_id=r.pod_sandbox_id))
        self.assertEqual([p.id for p in self.cri.ListPodSandbox().items], [self.good_pod])
        if not cri.SANITIZE:
            cri.wait_until(lambda: rss(self.pid) < before + 60 * 1024, what=f'memory near {before} KiB after all that')
        self.finish()

    def test_containers(self):
        config = {'metadata': {'name': 'c'}, 'image': {'image': self.image}, 'command': ['/bin/true'], 'args': ['x'], 'working_dir': '/', 'log_path': 'c.log',
                  'envs': [{'key': 'A', 'value': b'b'}], 'mounts': [{'container_path': '/m', 'host_path': self.logs}],
                  'devices': [{'container_path': '/dev/null2', 'host_path': '/dev/null', 'permissions': 'rw'}], 'labels': {'a': 'b'}, 'linux': {'resources': {}, 'security_context': {'namespace_options': {}, 'capabilities': {}}}}
        before = rss(self.pid)
        self.each('CreateContainer', {'pod_sandbox_id': self.good_pod, 'config': config, 'sandbox_config': self.configs[self.good_pod]},
                  lambda r: self.cri.RemoveContainer(container_id=r.container_id))
        self.assertEqual([c.id for c in self.cri.ListContainers().containers], [self.running])
        self.assertEqual(running.enter('ls', f'{cri.DATA_DIR}/containers'), self.running)
        if not cri.SANITIZE:
            cri.wait_until(lambda: rss(self.pid) < before + 60 * 1024, what=f'memory near {before} KiB after all that')
        self.finish()

    def test_all_other_calls(self):
        nobody = {'container_id': NOBODY}
        special = {
            'StopPodSandbox': {'pod_sandbox_id': NOBODY}, 'RemovePodSandbox': {'pod_sandbox_id': NOBODY}, 'PodSandboxStatus': {'pod_sandbox_id': self.good_pod},
            'StopContainer': {**nobody, 'timeout': 1}, 'RemoveContainer': nobody, 'ContainerStatus': {'container_id': self.running},
            'ExecSync': {'container_id': self.running, 'cmd': ['true'], 'timeout': 5}, 'PullImage': {'image': {'image': running.IMAGE}},
            'ImageStatus': {'image': {'image': running.IMAGE}}, 'RemoveImage': {'image': {'image': 'localhost/nosuch:1'}},
            'UpdateContainerResources': {'container_id': self.running, 'linux': {}}, 'ContainerStats': {'container_id': self.running},
            'PodSandboxStats': {'pod_sandbox_id': self.good_pod}, 'UpdatePodSandboxResources': {'pod_sandbox_id': self.good_pod}, 'ReopenContainerLog': {'container_id': self.running},
            'Exec': {'container_id': self.running, 'cmd': ['true'], 'stdout': True}, 'Attach': {'container_id': self.running, 'stdout': True},
            'PortForward': {'pod_sandbox_id': self.good_pod, 'port': [80]}}
        skipped = {'RunPodSandbox', 'CreateContainer', 'StartContainer'}
        for name in self.cri.methods:
            # A call that is not there yet answers so whatever is asked, without a look at it.
            if name not in skipped:
                self.each(name, special.get(name, {}))
        made = self.container(self.good_pod, 'true', 'made', start=False)
        for key in ('', 'x' * 65, MEGABYTE, NOBODY, '../x', '\0'):
            with self.assertRaises(cri.grpc.RpcError) as failed:
                self.cri.StartContainer(container_id=key)
            self.assertIn(failed.exception.code(), (Code.INVALID_ARGUMENT, Code.NOT_FOUND))
            self.assertIn('container', failed.exception.details())
        self.cri.StartContainer(container_id=made)
        self.assertEqual(cri.code_of(self.cri.StartContainer, container_id=made), Code.FAILED_PRECONDITION)
        self.finish()

    def test_ids_that_several_begin_with(self):
        while len({p.id[0] for p in self.cri.ListPodSandbox().items}) == len(self.cri.ListPodSandbox().items):
            self.pod(f'more{len(self.configs)}')
        ids = [p.id for p in self.cri.ListPodSandbox().items]
        digit = next(i[0] for i in ids if sum(j[0] == i[0] for j in ids) > 1)
        for call in (self.cri.PodSandboxStatus, self.cri.StopPodSandbox, self.cri.RemovePodSandbox):
            with self.assertRaises(cri.grpc.RpcError) as failed:
                call(pod_sandbox_id=digit)
            self.assertEqual(failed.exception.code(), Code.INVALID_ARGUMENT)
            self.assertIn('several', failed.exception.details())
        self.assertEqual(sorted(i.id for i in self.cri.ListPodSandbox().items), sorted(ids))

    def test_names_are_not_mixed_up(self):
        one = self.pod('a_b', metadata={'name': 'a_b', 'namespace': 'c', 'uid': 'u'})
        other = self.pod('a', metadata={'name': 'a', 'namespace': 'b_c', 'uid': 'u'})
        self.assertNotEqual(one, other)

    def test_bytes_that_are_no_message(self):
        for name in self.cri.methods:
            service = next(s.full_name for s in D.services_by_name.values() if name in s.methods_by_name)
            raw = self.cri.channel.unary_unary(f'/{service}/{name}', lambda b: b, lambda b: b)
            for data in (b'\xff' * 100, b'\x0a\xff\xff\xff\xff\x0f', b'\x0a\x05\xff\xfe', b'\x0b' * 10000, os.urandom(1000), b'\0' * (17 << 20)):
                code = cri.code_of(raw, data, timeout=30)
                self.assertIn(code, (Code.INTERNAL, Code.UNIMPLEMENTED, Code.RESOURCE_EXHAUSTED, Code.INVALID_ARGUMENT, Code.OK, Code.UNKNOWN, Code.NOT_FOUND), name)
                if len(data) > 16 << 20:
                    self.assertIn(code, (Code.RESOURCE_EXHAUSTED, Code.UNIMPLEMENTED), name)
        self.assertEqual(self.cri.Version().runtime_name, 'userpod')

    @unittest.skipIf(cri.SANITIZE, 'memory says nothing in a sanitizer build')
    def test_memory_stays(self):
        before = rss(self.pid)
        for i in range(40):
            large = {f'k{i}-{n}': 'v' * 4000 for n in range(3000)}
            self.assertEqual(cri.code_of(self.cri.RunPodSandbox, config={'metadata': {'name': 'large', 'namespace': 'n', 'uid': 'u'}, 'labels': large, 'linux': {}}),
                             Code.INVALID_ARGUMENT)
        cri.wait_until(lambda: rss(self.pid) < before + 60 * 1024, what=f'memory near {before} KiB after 40 requests of 12 MB')


if __name__ == '__main__':
    running.main()
