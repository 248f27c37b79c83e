// The CRI front end: translation and checks as plain functions.
#include <gtest/gtest.h>

#include <csignal>
#include <nlohmann/json.hpp>

#include "daemon/cri/calls.hpp"
#include "daemon/cri/containers.hpp"
#include "daemon/cri/images.hpp"
#include "daemon/cri/pods.hpp"
#include "daemon/cri/resources.hpp"
#include "daemon/cri/signals.hpp"

namespace userpod::cri {
namespace {

constexpr const char* kLogs = "/var/log/pods";

v1::PodSandboxConfig goodPod() {
  v1::PodSandboxConfig config;
  config.mutable_metadata()->set_name("web");
  config.mutable_metadata()->set_namespace_("shop");
  config.mutable_metadata()->set_uid("u-1");
  config.mutable_metadata()->set_attempt(3);
  return config;
}

v1::ContainerConfig goodContainer() {
  v1::ContainerConfig config;
  config.mutable_metadata()->set_name("main");
  config.mutable_image()->set_image("sha256:" + std::string(64, 'a'));
  return config;
}

// The text of the error for a pod or container that `spoil` has changed; "" when it is accepted.
std::string podError(const std::function<void(v1::PodSandboxConfig&)>& spoil, Code code = Code::InvalidArgument) {
  auto config = goodPod();
  spoil(config);
  auto result = toPodConfig(config, kLogs);
  if (result) return "";
  EXPECT_EQ(result.error().code(), code) << result.error().text();
  return result.error().text();
}

std::string containerError(const std::function<void(v1::ContainerConfig&)>& spoil, Code code = Code::InvalidArgument) {
  auto config = goodContainer();
  spoil(config);
  auto result = toContainerConfig(config);
  if (result) return "";
  EXPECT_EQ(result.error().code(), code) << result.error().text();
  return result.error().text();
}

bool names(const std::string& error, std::string_view field) {
  return error.find(field) != std::string::npos;
}

TEST(CriPod, EverythingAskedArrives) {
  auto config = goodPod();
  config.set_hostname("web-0");
  config.set_log_directory("/var/log/pods/shop_web_u-1");
  config.mutable_dns_config()->add_servers("10.0.2.3");
  config.mutable_dns_config()->add_options("ndots:5");
  auto* port = config.add_port_mappings();
  port->set_protocol(v1::UDP);
  port->set_container_port(53);
  port->set_host_port(1053);
  port->set_host_ip("127.0.0.1");
  (*config.mutable_labels())["app"] = "web";
  (*config.mutable_annotations())["note"] = std::string(100000, 'x');
  auto* linux = config.mutable_linux();
  linux->set_cgroup_parent("/kubepods/podu-1");
  (*linux->mutable_sysctls())["net.core.somaxconn"] = "512";
  linux->mutable_overhead()->set_memory_limit_in_bytes(1 << 20);
  auto* security = linux->mutable_security_context();
  security->mutable_namespace_options()->set_network(v1::NODE);
  security->mutable_namespace_options()->set_pid(v1::CONTAINER);
  security->mutable_namespace_options()->mutable_userns_options()->set_mode(v1::NODE);
  security->mutable_run_as_user()->set_value(0);
  security->mutable_run_as_group()->set_value(7);
  security->mutable_seccomp();
  auto pod = toPodConfig(config, kLogs);
  ASSERT_TRUE(pod) << pod.error().text();
  EXPECT_EQ(pod->name + "/" + pod->nameSpace + "/" + pod->uid, "web/shop/u-1");
  EXPECT_EQ(pod->attempt, 3U);
  EXPECT_EQ(pod->dns->options.at(0), "ndots:5");
  EXPECT_EQ(pod->ports.at(0).protocol, 1);
  EXPECT_EQ(pod->ports.at(0).hostPort, 1053);
  EXPECT_EQ(pod->annotations.at("note").size(), 100000U);
  EXPECT_EQ(pod->cgroupParent, "/kubepods/podu-1");
  EXPECT_EQ(pod->sysctls.at("net.core.somaxconn"), "512");
  EXPECT_EQ(pod->overhead->memoryLimit, 1 << 20);
  EXPECT_FALSE(pod->resources);
  EXPECT_EQ(pod->security.namespaces.network, NamespaceMode::Node);
  EXPECT_EQ(pod->security.namespaces.pid, NamespaceMode::Container);
  EXPECT_EQ(pod->security.runAsUser, 0);
  EXPECT_EQ(pod->security.seccomp->type, SecurityProfile::Type::RuntimeDefault);
}

TEST(CriPod, EmptyMeansTheDefault) {
  auto pod = toPodConfig(goodPod(), kLogs);
  ASSERT_TRUE(pod);
  EXPECT_EQ(pod->logDirectory, "/var/log/pods/shop_web_u-1");
  EXPECT_FALSE(pod->dns);
  EXPECT_FALSE(pod->security.runAsUser);
  EXPECT_FALSE(pod->security.seccomp);  // unconfined
}

TEST(CriPod, ErrorsNameTheField) {
  using C = v1::PodSandboxConfig;
  EXPECT_TRUE(names(podError([](C& c) { c.clear_metadata(); }), "config.metadata"));
  EXPECT_TRUE(names(podError([](C& c) { c.mutable_metadata()->clear_name(); }), "config.metadata.name"));
  EXPECT_TRUE(names(podError([](C& c) { c.mutable_metadata()->clear_namespace_(); }), "config.metadata.namespace"));
  EXPECT_TRUE(names(podError([](C& c) { c.mutable_metadata()->set_uid("../x"); }), "config.metadata.uid"));
  EXPECT_TRUE(names(podError([](C& c) { c.set_log_directory("logs"); }), "config.log_directory"));
  EXPECT_TRUE(names(podError([](C& c) { c.set_log_directory("/var/log/../.."); }), "config.log_directory"));
  EXPECT_TRUE(names(podError([](C& c) { c.set_hostname("a\nb"); }), "config.hostname"));
  EXPECT_TRUE(
      names(podError([](C& c) { c.mutable_dns_config()->add_servers("1.1.1.1\nsearch x"); }), "dns_config.servers"));
  EXPECT_TRUE(names(podError([](C& c) { c.add_port_mappings()->set_container_port(70000); }), "container_port"));
  EXPECT_TRUE(names(podError([](C& c) { (*c.mutable_labels())["k"] = std::string(4096, 'v'); }), "config.labels"));
  auto security = [](C& c) { return c.mutable_linux()->mutable_security_context(); };
  EXPECT_TRUE(names(podError([&](C& c) { security(c)->mutable_run_as_group()->set_value(1); }), "run_as_group"));
  EXPECT_TRUE(names(podError([&](C& c) { security(c)->mutable_run_as_user()->set_value(-1); }), "run_as_user"));
  EXPECT_TRUE(names(podError([&](C& c) { security(c)->mutable_namespace_options()->set_ipc(v1::CONTAINER); }), "ipc"));
  EXPECT_TRUE(names(podError([&](C& c) { security(c)->mutable_namespace_options()->set_pid(v1::TARGET); }), "pid"));
  auto odd = static_cast<v1::NamespaceMode>(9);
  EXPECT_TRUE(names(podError([&](C& c) { security(c)->mutable_namespace_options()->set_pid(odd); }), "pid"));
  auto localhost = [&](C& c) { security(c)->mutable_seccomp()->set_profile_type(v1::SecurityProfile::Localhost); };
  EXPECT_TRUE(names(podError(localhost), "seccomp.localhost_ref"));
}

TEST(CriPod, WhatIsNotDoneIsRefusedByName) {
  auto userNamespace = [](v1::PodSandboxConfig& config) {
    auto* options =
        config.mutable_linux()->mutable_security_context()->mutable_namespace_options()->mutable_userns_options();
    options->set_mode(v1::POD);
    options->add_uids()->set_length(65536);
    options->add_gids()->set_length(65536);
  };
  EXPECT_TRUE(names(podError(userNamespace, Code::NotSupported), "userns_options"));
  auto twoRanges = [&](v1::PodSandboxConfig& config) {
    userNamespace(config);
    config.mutable_linux()
        ->mutable_security_context()
        ->mutable_namespace_options()
        ->mutable_userns_options()
        ->add_gids()
        ->set_length(1);
  };
  EXPECT_TRUE(names(podError(twoRanges), "userns_options.gids"));
}

TEST(CriPod, VerboseInfo) {
  PodRecord pod;
  pod.state = PodRecord::State::Ready;
  pod.config.annotations = {{"key", "value"}};
  pod.config.overhead = Resources{};
  pod.config.overhead->cpuShares = 7;
  auto info = [&] { return nlohmann::json::parse(podInfo(pod, 42, {"/ns/net", "/ns/ipc", "/ns/uts"})); };
  auto ready = info();
  EXPECT_EQ(ready["pid"], 42);
  EXPECT_EQ(ready["config"]["annotations"]["key"], "value");
  EXPECT_EQ(ready["config"]["linux"]["overhead"], (nlohmann::json{{"cpu_shares", 7}}));
  auto& namespaces = ready["runtimeSpec"]["linux"]["namespaces"];
  ASSERT_EQ(namespaces.size(), 3U);
  EXPECT_EQ(namespaces[0], (nlohmann::json{{"type", "network"}, {"path", "/ns/net"}}));
  pod.pausePid = 12;
  EXPECT_EQ(info()["nodePid"], 12);
  EXPECT_EQ(info()["runtimeSpec"]["linux"]["namespaces"].size(), 4U);
  pod.state = PodRecord::State::NotReady;
  EXPECT_TRUE(info()["runtimeSpec"]["linux"]["namespaces"].empty());
}

TEST(CriPod, OldSpellingOfSeccomp) {
  auto config = goodPod();
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
  config.mutable_linux()->mutable_security_context()->set_seccomp_profile_path("localhost//profiles/a.json");
#pragma GCC diagnostic pop
  EXPECT_EQ(toPodConfig(config, kLogs)->security.seccomp->localhostRef, "/profiles/a.json");
  config.mutable_linux()->mutable_security_context()->mutable_seccomp()->set_profile_type(
      v1::SecurityProfile::Unconfined);
  EXPECT_EQ(toPodConfig(config, kLogs)->security.seccomp->type, SecurityProfile::Type::Unconfined);
}

PodRecord podRecord() {
  PodRecord pod;
  pod.id = std::string(64, 'b');
  pod.config = *toPodConfig(goodPod(), kLogs);
  pod.config.labels = {{"app", "web"}, {"tier", "front"}};
  pod.state = PodRecord::State::Ready;
  pod.createdAt = 42;
  pod.addresses = {"10.88.0.2", "fd00::2"};
  return pod;
}

TEST(CriPod, FiltersSelectByPrefixStateAndLabels) {
  PodRecord pod = podRecord();
  v1::PodSandboxFilter filter;
  EXPECT_TRUE(matches(filter, pod));
  filter.set_id("bbb");
  filter.mutable_state()->set_state(v1::SANDBOX_READY);
  (*filter.mutable_label_selector())["app"] = "web";
  EXPECT_TRUE(matches(filter, pod));
  (*filter.mutable_label_selector())["tier"] = "back";
  EXPECT_FALSE(matches(filter, pod));
  filter.clear_label_selector();
  filter.mutable_state()->set_state(v1::SANDBOX_NOTREADY);
  EXPECT_FALSE(matches(filter, pod));
  pod.state = PodRecord::State::Creating;
  EXPECT_FALSE(matches({}, pod));
  pod = podRecord();
  pod.origin = Origin::Desktop;
  EXPECT_FALSE(matches({}, pod));
}

TEST(CriPod, StatusHasWhatClientsDemand) {
  v1::PodSandboxStatus status;
  fillStatus(podRecord(), &status);
  EXPECT_EQ(status.metadata().uid(), "u-1");
  EXPECT_EQ(status.created_at(), 42);
  EXPECT_EQ(status.network().ip(), "10.88.0.2");
  ASSERT_EQ(status.network().additional_ips_size(), 1);
  EXPECT_EQ(status.network().additional_ips(0).ip(), "fd00::2");
  EXPECT_EQ(status.labels().at("tier"), "front");
}

TEST(CriContainer, EverythingAskedArrives) {
  auto config = goodContainer();
  config.mutable_image()->set_user_specified_image("busybox:1");
  config.add_command("/bin/sh");
  config.add_args("-c");
  auto* variable = config.add_envs();
  variable->set_key("RAW");
  variable->set_value("\xff\xfe");
  auto* mount = config.add_mounts();
  mount->set_container_path("/data");
  mount->set_host_path("/srv");
  mount->set_readonly(true);
  mount->set_recursive_read_only(true);
  config.add_devices()->set_host_path("/dev/fuse");
  config.set_log_path("main/0.log");
  config.set_tty(true);
  config.set_stop_signal(v1::SIGNAL_SIGRTMINPLUS3);
  auto* linux = config.mutable_linux();
  linux->mutable_resources()->set_memory_limit_in_bytes(64 << 20);
  (*linux->mutable_resources()->mutable_unified())["memory.oom.group"] = "1";
  auto* security = linux->mutable_security_context();
  security->set_run_as_username("nginx");
  security->mutable_run_as_group()->set_value(5);
  security->set_supplemental_groups_policy(v1::Strict);
  security->mutable_capabilities()->add_drop_capabilities("ALL");
  auto container = toContainerConfig(config);
  ASSERT_TRUE(container) << container.error().text();
  EXPECT_EQ(container->userSpecifiedImage, "busybox:1");
  EXPECT_EQ(container->environment.at(0).second, "\xff\xfe");
  EXPECT_TRUE(container->mounts.at(0).recursiveReadOnly);
  EXPECT_EQ(container->devices.at(0).containerPath, "/dev/fuse");
  EXPECT_EQ(container->devices.at(0).permissions, "rwm");
  EXPECT_EQ(container->stopSignal, 37);
  EXPECT_EQ(container->resources->unified.at("memory.oom.group"), "1");
  EXPECT_EQ(container->security.runAsUsername, "nginx");
  EXPECT_TRUE(container->security.strictGroups);
  EXPECT_EQ(container->security.capabilities.drop.at(0), "ALL");
}

TEST(CriContainer, ErrorsNameTheField) {
  using C = v1::ContainerConfig;
  EXPECT_TRUE(names(containerError([](C& c) { c.clear_metadata(); }), "config.metadata"));
  EXPECT_TRUE(names(containerError([](C& c) { c.clear_image(); }), "config.image.image"));
  EXPECT_TRUE(names(containerError([](C& c) { c.add_envs()->set_key("A=B"); }), "config.envs"));
  EXPECT_TRUE(names(containerError([](C& c) { c.add_args(std::string("a\0b", 3)); }), "config.args"));
  EXPECT_TRUE(names(containerError([](C& c) { c.set_working_dir("tmp"); }), "config.working_dir"));
  EXPECT_TRUE(names(containerError([](C& c) { c.set_log_path("../0.log"); }), "config.log_path"));
  EXPECT_TRUE(
      names(containerError([](C& c) { c.set_stop_signal(static_cast<v1::Signal>(99)); }), "config.stop_signal"));
  auto mount = [](C& c) {
    auto* added = c.add_mounts();
    added->set_container_path("/data");
    added->set_host_path("/srv");
    return added;
  };
  EXPECT_TRUE(names(containerError([&](C& c) { mount(c)->clear_host_path(); }), "config.mounts[/data].host_path"));
  EXPECT_TRUE(names(containerError([&](C& c) { mount(c)->set_recursive_read_only(true); }), "recursive_read_only"));
  EXPECT_TRUE(names(containerError([&](C& c) { mount(c)->mutable_image()->set_image("a"); }), "host_path"));
  auto limits = [](C& c) { return c.mutable_linux()->mutable_resources(); };
  EXPECT_TRUE(names(containerError([&](C& c) { limits(c)->set_memory_limit_in_bytes(-2); }), "memory_limit_in_bytes"));
  EXPECT_TRUE(names(containerError([&](C& c) { limits(c)->set_cpuset_cpus("0; x"); }), "cpuset_cpus"));
  EXPECT_TRUE(names(containerError([&](C& c) { (*limits(c)->mutable_unified())["../x.y"] = "1"; }), "unified"));
  auto security = [](C& c) { return c.mutable_linux()->mutable_security_context(); };
  EXPECT_TRUE(names(containerError([&](C& c) { security(c)->mutable_run_as_group()->set_value(1); }), "run_as_group"));
  EXPECT_TRUE(
      names(containerError([&](C& c) { security(c)->mutable_namespace_options()->set_pid(v1::TARGET); }), "target_id"));
}

TEST(CriContainer, StatusKeepsTheContract) {
  ContainerRecord record;
  record.id = std::string(64, 'c');
  record.config = *toContainerConfig(goodContainer());
  record.imageId = record.config.image;
  record.state = ContainerRecord::State::Created;
  record.createdAt = 1;
  record.message = "crun: \xff said";
  record.stopSignal = SIGTERM;
  record.config.mounts.push_back({.containerPath = "/i", .image = "site", .imageSubPath = "a/b", .imageId = "id"});
  v1::ContainerStatus status;
  fillStatus(record, &status);
  EXPECT_EQ(status.started_at(), 0);
  EXPECT_EQ(status.finished_at(), 0);
  EXPECT_EQ(status.message(), "crun: ? said");
  EXPECT_EQ(status.stop_signal(), v1::SIGNAL_SIGTERM);
  EXPECT_EQ(status.image().image(), record.imageId);
  EXPECT_EQ(status.image_ref(), record.imageId);
  ASSERT_GT(status.mounts_size(), 0);
  const auto& volume = status.mounts(status.mounts_size() - 1);
  EXPECT_EQ(volume.image().image(), "site");
  EXPECT_EQ(volume.image().image_ref(), "id");
  EXPECT_EQ(volume.image_sub_path(), "a/b");
  record.state = ContainerRecord::State::Exited;
  record.startedAt = 2;
  record.finishedAt = 3;
  record.exitCode = 137;
  record.reason = "OOMKilled";
  v1::ContainerStatus ended;
  fillStatus(record, &ended);
  EXPECT_EQ(ended.finished_at(), 3);
  EXPECT_EQ(ended.exit_code(), 137);
  EXPECT_EQ(ended.reason(), "OOMKilled");
}

TEST(CriSignal, NumbersAreTheKernelsNotTheContracts) {
  EXPECT_EQ(toKernelSignal(v1::SIGNAL_RUNTIME_DEFAULT), 0);
  EXPECT_EQ(toKernelSignal(v1::SIGNAL_SIGTERM), SIGTERM);
  EXPECT_EQ(toKernelSignal(v1::SIGNAL_SIGXFSZ), SIGXFSZ);
  EXPECT_EQ(toKernelSignal(v1::SIGNAL_SIGRTMIN), 34);
  EXPECT_EQ(toKernelSignal(v1::SIGNAL_SIGRTMAX), 64);
  EXPECT_EQ(toKernelSignal(66), -1);
  for (int value = 1; value <= v1::SIGNAL_SIGRTMAX; ++value) {
    auto name = v1::Signal_Name(static_cast<v1::Signal>(value)).substr(7);
    int number = toKernelSignal(value);
    if (value < v1::SIGNAL_SIGRTMIN && name != "SIGCLD" && name != "SIGIOT" && name != "SIGPOLL" && name != "SIGIO") {
      EXPECT_EQ(std::string("SIG") + ::sigabbrev_np(number), name);
      EXPECT_EQ(toCriSignal(number), value);
    }
  }
  EXPECT_EQ(toKernelSignal(v1::SIGNAL_SIGIO), SIGIO);
  EXPECT_EQ(toCriSignal(SIGIO), v1::SIGNAL_SIGIO);  // the first of the names of one number
  EXPECT_EQ(toCriSignal(64), v1::SIGNAL_SIGRTMAX);
  EXPECT_EQ(toCriSignal(32), 0);
}

v1::AuthConfig authOf(const std::function<void(v1::AuthConfig&)>& edit) {
  v1::AuthConfig auth;
  edit(auth);
  return auth;
}

TEST(CriImage, CredentialsInAllForms) {
  EXPECT_TRUE(toCredentials({})->empty());
  auto plain = toCredentials(authOf([](auto& a) { a.set_username("user"), a.set_password("pa:ss"); }));
  EXPECT_EQ(plain->username, "user");
  EXPECT_EQ(plain->password, "pa:ss");
  auto basic = toCredentials(authOf([](auto& a) { a.set_auth("dXNlcjpwYTpzcw=="); }));
  EXPECT_EQ(*basic, *plain);
  auto both = authOf([](auto& a) { a.set_auth("dXNlcjpwYTpzcw=="), a.set_username("user"), a.set_password("pa:ss"); });
  EXPECT_EQ(*toCredentials(both), *plain);
  // As Docker keeps them: a name, or the base64 text of "user:", beside the token.
  auto identity = toCredentials(authOf([](auto& a) { a.set_auth("dXNlcjo="), a.set_identity_token("t"); }));
  ASSERT_TRUE(identity) << identity.error().text();
  EXPECT_EQ(identity->identityToken, "t");
  EXPECT_EQ(identity->username, "");
  EXPECT_EQ(toCredentials(authOf([](auto& a) { a.set_registry_token("t"); }))->registryToken, "t");
  const std::pair<const char*, const char*> servers[] = {
      {"https://index.docker.io/v1/", "docker.io"},
      {"docker.io", "docker.io"},
      {"registry.example", "registry.example"},
      {"http://registry.example:5000/v2/team", "registry.example:5000"},
      {"[::1]:5000", "[::1]:5000"},
      {"registry.example/team", "registry.example"}};
  for (const auto& [text, host] : servers)
    EXPECT_EQ(toCredentials(authOf([text = text](auto& a) { a.set_server_address(text); }))->serverAddress, host);
}

TEST(CriImage, WrongCredentialsNameTheFieldAndNoSecret) {
  struct Case {
    std::function<void(v1::AuthConfig&)> edit;
    const char* field;
  };
  // Every value has "cr", which no text of an error has.
  const Case cases[] = {
      {[](auto& a) { a.set_auth("c2VjcmV0"); }, "auth.auth"},  // "secret"
      {[](auto& a) { a.set_auth("secret"); }, "auth.auth"},
      {[](auto& a) { a.set_auth("s$cr$t=="); }, "auth.auth"},
      {[](auto& a) { a.set_auth("dXNlcjpwYTpzcw=="), a.set_username("secret"); }, "auth.auth"},
      {[](auto& a) { a.set_auth("dXNlcjpwYTpzcw=="), a.set_username("user"), a.set_password("secret"); }, "auth.auth"},
      {[](auto& a) { a.set_password("secret"); }, "auth.username"},
      {[](auto& a) { a.set_username("u"), a.set_password("se\ncret"); }, "auth.password"},
      {[](auto& a) { a.set_username(std::string("cr\0", 3)); }, "auth.username"},
      {[](auto& a) { a.set_username("u"), a.set_password("cr"), a.set_identity_token("cr"); }, "auth.identity_token"},
      {[](auto& a) { a.set_username("u"), a.set_password("cr"), a.set_registry_token("cr"); }, "auth.registry_token"},
      {[](auto& a) { a.set_identity_token("cr"), a.set_registry_token("cr"); }, "auth.registry_token"},
      {[](auto& a) { a.set_registry_token("c\rr"); }, "auth.registry_token"},
      {[](auto& a) { a.set_identity_token(std::string(70000, 'c')); }, "auth.identity_token"},
      {[](auto& a) { a.set_server_address("https://"); }, "auth.server_address"},
      {[](auto& a) { a.set_server_address("user:secret@registry.example"); }, "auth.server_address"},
      {[](auto& a) { a.set_server_address("*.registry.example"); }, "auth.server_address"},
  };
  for (const auto& [edit, field] : cases) {
    auto refused = toCredentials(authOf(edit));
    ASSERT_FALSE(refused) << field;
    EXPECT_EQ(refused.error().code(), Code::InvalidArgument);
    EXPECT_TRUE(refused.error().text().starts_with(std::string(field) + " ")) << refused.error().text();
    EXPECT_EQ(refused.error().text().find("cr"), std::string::npos) << "the error quotes the secret";
  }
}

TEST(CriImage, UserIsANumberOrAName) {
  ImageRecord record;
  record.id = "sha256:1";
  record.size = 10;
  auto item = [&](const std::string& user) {
    record.user = user;
    v1::Image image;
    fillItem(record, "", &image);
    return image;
  };
  EXPECT_EQ(item("1002:5").uid().value(), 1002);
  EXPECT_EQ(item("1002").username(), "");
  EXPECT_FALSE(item("www-data:www-data").has_uid());
  EXPECT_EQ(item("www-data:www-data").username(), "www-data");
  EXPECT_FALSE(item("").has_uid());
}

TEST(CriImage, InfoSurvivesHostileJson) {
  ImageRecord record;
  record.config = std::string(1000000, '[') + std::string(1000000, ']');
  EXPECT_NE(imageInfo(record, record.config).find("imageSpec"), std::string::npos);
  record.config = "{\"a\":";
  EXPECT_NE(imageInfo(record, record.config).find("\"imageSpec\":null"), std::string::npos);
}

TEST(CriError, CodesAndPrefixes) {
  EXPECT_EQ(toGrpc(Error(Code::NoSuchPod, "x")).error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(toGrpc(Error(Code::Timeout, "x")).error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  auto unreachable = toGrpc(Error(Code::RegistryUnreachable, "no route"));
  EXPECT_EQ(unreachable.error_code(), grpc::StatusCode::UNKNOWN);
  EXPECT_EQ(unreachable.error_message(), "RegistryUnavailable: no route");
  auto recursive = toGrpc(Error(Code::RecursiveReadOnlyUnsupported, "no").wrap("container c"));
  EXPECT_EQ(recursive.error_code(), grpc::StatusCode::UNKNOWN);
  EXPECT_EQ(recursive.error_message(), "RROUnsupported: container c: no");
  EXPECT_EQ(toGrpc(Error(Code::SignatureRejected, "no")).error_message(), "SignatureValidationFailed: no");
  EXPECT_EQ(toGrpc(Error(Code::ImageVolumeFailed, "no")).error_message(), "ImageVolumeMountFailed: no");
  EXPECT_EQ(toGrpc(Error(Code::ImageVolumeFailed, "no")).error_code(), grpc::StatusCode::UNKNOWN);
  EXPECT_LE(toGrpc(Error(Code::System, std::string(100000, 'x'))).error_message().size(), 4096U);
}

TEST(CriText, KeepsWhatIsUtf8) {
  EXPECT_EQ(toText("grün"), "grün");
  EXPECT_EQ(toText("a\xc3"), "a?");
  EXPECT_EQ(toText("\xf0\x9f\x98\x80\xffz"), "\xf0\x9f\x98\x80?z");
}

}  // namespace
}  // namespace userpod::cri
