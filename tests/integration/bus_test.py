#!/usr/bin/python3
"""The bus of the running daemon: its tree, what it says of itself against the documents, a pull as a job, and the stop
and removal of what a client of the CRI made."""
import os
import subprocess
import unittest
import xml.etree.ElementTree as ET

import cri

ROOT = '/org/userpod1'
IMAGE = f'{cri.REGISTRY}/test/busybox:1'


def interface(name):
    return f'{cri.BUS}.{name}'


def normalised(element):
    """An interface as plain data: no comments, no defaults, members in any order."""
    members = set()
    for member in element:
        if not isinstance(member.tag, str) or member.tag == 'annotation':
            continue
        arguments = tuple((a.get('name'), a.get('type'), a.get('direction', 'in' if member.tag == 'method' else 'out'))
                          for a in member.findall('arg'))
        notes = tuple(sorted((n.get('name'), n.get('value')) for n in member.findall('annotation')
                             if not n.get('name').endswith('Method.Async') and n.get('value') != 'true'))
        members.add((member.tag, member.get('name'), member.get('type'), member.get('access'), arguments, notes))
    return members


def pod_config(name):
    return {'metadata': {'name': name, 'namespace': 'default', 'uid': name, 'attempt': 0},
            'log_directory': f'/var/log/pods/default_{name}_{name}', 'labels': {'app': name}, 'linux': {}}


class Bus(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cri = cri.Cri()
        cls.pods = []

    @classmethod
    def tearDownClass(cls):
        for pod in cls.pods:
            cls.cri.RemovePodSandbox(pod_sandbox_id=pod)
        cls.cri.__exit__()

    def call(self, path, name, method, *rest):
        return cri.bus_call(path, interface(name), method, *rest)

    def refused(self, error, path, name, method, *rest):
        """The call fails with this error, which gdbus names."""
        with self.assertRaises(RuntimeError) as raised:
            self.call(path, name, method, *rest)
        self.assertIn(error, str(raised.exception))

    def finish(self, job):
        return self.call(job, 'Job', 'Wait', 'a{sv}', 0)[0]

    def pull(self):
        number, job = self.call(ROOT, 'Manager', 'PullImage', 'sa{sv}', IMAGE, 0)
        self.assertEqual(job, f'{ROOT}/jobs/{number}')
        return job, self.finish(job)['image']

    def make(self, name):
        """A pod with one running container, by the CRI."""
        self.pull()
        config = pod_config(name)
        pod = self.cri.RunPodSandbox(config=config).pod_sandbox_id
        self.pods.append(pod)
        container = self.cri.CreateContainer(pod_sandbox_id=pod, sandbox_config=config, config={
            'metadata': {'name': 'main'}, 'image': {'image': IMAGE}, 'command': ['sleep', '600'], 'log_path': 'main.log',
            'envs': [{'key': 'SECRET', 'value': b'hunter2'}], 'linux': {}}).container_id
        self.cri.StartContainer(container_id=container)
        return pod, container

    def test_documents(self):
        """What each object says of itself is what is installed."""
        pod, container = self.make('bus-documents')
        job, image = self.pull()
        paths = {'Manager': ROOT, 'Pod': f'{ROOT}/pods/{pod}', 'Container': f'{ROOT}/containers/{container}', 'Image': image,
                 'Job': job}
        for name, path in paths.items():
            document = ET.parse(f'{cri.ROOT}/dbus/{interface(name)}.xml').find('interface')
            said = ET.fromstring(cri.run('busctl', '--user', 'introspect', '--xml-interface', cri.BUS, path))
            own = [i for i in said.findall('interface') if i.get('name') == interface(name)]
            self.assertEqual(len(own), 1, path)
            self.assertEqual(normalised(own[0]), normalised(document), name)

    def test_tree_and_properties(self):
        pod, container = self.make('bus-tree')
        path, owner = f'{ROOT}/containers/{container}', f'{ROOT}/pods/{pod}'
        objects = cri.wait_until(lambda: (t := cri.bus_objects()).get(path, {}).get(interface('Container'), {}).get('State')
                                 == 'running' and t, what='the container on the bus')
        shown = objects[path][interface('Container')]
        self.assertEqual(shown['Pod'], owner)
        self.assertEqual(shown['Origin'], 'cri')
        self.assertEqual(bytes(shown['Command'][0]), b'sleep')
        self.assertIn(path, objects[owner][interface('Pod')]['Containers'])
        self.assertIn(path, objects[shown['Image']][interface('Image')]['UsedBy'])
        self.assertNotIn('hunter2', str(objects))

        def command():
            with open(f'/proc/{shown["Pid"]}/cmdline', 'rb') as f:
                return f.read()
        # Running is what crun has told to start; its exec may come a little later.
        cri.wait_until(lambda: b'sleep' in command(), what='the command in the process of the container')
        with open(f'/proc/{shown["Pid"]}/cgroup', encoding='utf-8') as f:
            self.assertIn(shown['CgroupPath'], f.read())
        self.assertEqual(self.call(ROOT, 'Manager', 'GetPod', 'sa{sv}', pod[:20], 0), [owner])
        rows = self.call(ROOT, 'Manager', 'ListPods', 'a{sv}', 2, 'labels', 'a{ss}', 1, 'app', 'bus-tree', 'fields', 'as', 1, 'Id')
        self.assertEqual(rows, [[[owner, {'Id': pod}]]])
        self.assertIn('subordinate-ids', str(self.call(ROOT, 'Manager', 'Diagnose', 'a{sv}', 0)))
        self.assertEqual(cri.bus_get(ROOT, interface('Manager'), 'RuntimeName'), 'userpod')

    def test_pull(self):
        job, image = self.pull()
        self.assertIn(IMAGE, cri.bus_get(image, interface('Image'), 'RepoTags'))
        self.assertEqual(cri.bus_get(job, interface('Job'), 'State'), 'done')
        self.assertEqual(self.call(ROOT, 'Manager', 'GetImage', 'sa{sv}', IMAGE, 0), [image])
        self.assertTrue(self.call(image, 'Image', 'GetConfig', 'a{sv}', 0)[0].startswith('{'))
        _, missing = self.call(ROOT, 'Manager', 'PullImage', 'sa{sv}', f'{cri.REGISTRY}/no/such:1', 0)
        with self.assertRaises(RuntimeError):
            self.finish(missing)
        self.assertEqual(cri.bus_get(missing, interface('Job'), 'State'), 'failed')
        self.assertTrue(cri.bus_get(missing, interface('Job'), 'ErrorName').startswith('org.userpod1.Error.'))
        self.refused('username', ROOT, 'Manager', 'PullImage', 'sa{sv}', IMAGE, 1, 'username', 'u', 7)

    def test_stop_and_remove(self):
        """A kubelet's container is left alone unless the caller insists."""
        pod, container = self.make('bus-managed')
        path, owner = f'{ROOT}/containers/{container}', f'{ROOT}/pods/{pod}'
        image = cri.bus_get(path, interface('Container'), 'Image')
        insist = ('force-managed', 'b', 'true')
        for method in 'Stop', 'Remove', 'Start':
            self.refused('force-managed', path, 'Container', method, 'a{sv}', 0)
        self.refused('force-managed', owner, 'Pod', 'Stop', 'a{sv}', 0)
        self.refused('is used by container', image, 'Image', 'Remove', 'a{sv}', 0)
        self.refused('"force"', path, 'Container', 'Remove', 'a{sv}', 1, *insist)
        self.refused('no signal', path, 'Container', 'Kill', 'isa{sv}', 300, 'main', 1, *insist)
        self.assertEqual(cri.bus_get(path, interface('Container'), 'State'), 'running')

        _, job = self.call(path, 'Container', 'Stop', 'a{sv}', 2, *insist, 'timeout-usec', 't', 0)
        self.finish(job)
        self.assertEqual(cri.bus_get(path, interface('Container'), 'State'), 'exited')
        self.assertEqual(cri.bus_get(path, interface('Container'), 'ExitSignal'), 9)
        _, job = self.call(path, 'Container', 'Remove', 'a{sv}', 1, *insist)
        self.finish(job)
        self.assertNotIn(path, cri.bus_objects())
        _, job = self.call(owner, 'Pod', 'Remove', 'a{sv}', 1, *insist)
        self.finish(job)
        objects = cri.bus_objects()
        self.assertNotIn(owner, objects)
        self.assertEqual(objects[job][interface('Job')]['Objects'], [owner])

    def test_signals(self):
        """An exit is told by properties first, then by signals."""
        _, container = self.make('bus-signals')
        path = f'{ROOT}/containers/{container}'
        monitor = subprocess.Popen(['dbus-monitor', '--session', f"type='signal',sender='{cri.BUS}'"],
                                   stdout=subprocess.PIPE, text=True)
        try:
            # dbus-monitor names itself first: from then on it hears.
            monitor.stdout.readline()
            self.call(path, 'Container', 'Kill', 'isa{sv}', 9, 'main', 1, 'force-managed', 'b', 'true')
            seen = []
            for line in monitor.stdout:
                if 'member=' in line and path in line:
                    seen.append(line.rsplit('member=', 1)[1].strip())
                if 'container-exited' in line:
                    break
        finally:
            monitor.terminate()
            monitor.communicate()
        self.assertIn('Exited', seen)
        self.assertIn('PropertiesChanged', seen[:seen.index('Exited')])


if __name__ == '__main__':
    if not os.path.exists(cri.SOCKET):
        cri.skip('the daemon does not run here')
    if not cri.REGISTRY:
        cri.skip('no test registry')
    unittest.main(verbosity=2)
