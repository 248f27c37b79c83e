#include "daemon/network/cni/cache.hpp"

#include <fmt/core.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "daemon/network/cni/result.hpp"
#include "daemon/sys/fd.hpp"
#include "daemon/sys/log.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::network::cni {
namespace {

constexpr const char* kKind = "cniCacheV1";
constexpr const char* kOurs = "org.userpod.attachment";  // "adding" or "added"; libcni passes over it
constexpr std::size_t kPodIdLength = 64;

std::string encodeBase64(const std::string& text) {
  std::string out(4 * ((text.size() + 2) / 3) + 1, '\0');
  int length = ::EVP_EncodeBlock(reinterpret_cast<unsigned char*>(out.data()),
                                 reinterpret_cast<const unsigned char*>(text.data()), static_cast<int>(text.size()));
  out.resize(static_cast<std::size_t>(length));
  return out;
}

Result<std::string> decodeBase64(const std::string& text) {
  std::string out(text.size() / 4 * 3 + 3, '\0');
  int length = ::EVP_DecodeBlock(reinterpret_cast<unsigned char*>(out.data()),
                                 reinterpret_cast<const unsigned char*>(text.data()), static_cast<int>(text.size()));
  if (text.size() % 4 != 0 || length < 0) return Error(Code::ConfigInvalid, "\"config\" is not base64");
  auto padding = text.size() - std::min(text.size(), text.find_last_not_of('=') + 1);
  out.resize(static_cast<std::size_t>(length) - std::min(static_cast<std::size_t>(length), padding));
  return out;
}

Result<CniArgs> parseArgs(const Json& object) {
  USERPOD_TRY(list, containerOf(object, "cniArgs", "", Json::value_t::array));
  CniArgs args;
  for (const auto& pair : *list) {
    if (!pair.is_array() || pair.size() != 2 || !pair[0].is_string() || !pair[1].is_string())
      return wrongKey("", "cniArgs", "must be a list of pairs of strings");
    args.emplace_back(pair[0], pair[1]);
  }
  return args;
}

}  // namespace

std::string attachmentText(const Attachment& attachment) {
  Json args = Json::array();
  for (const auto& [key, value] : attachment.args) args.push_back({key, value});
  Json object = {{"kind", kKind},
                 {"containerId", attachment.podId},
                 {"config", encodeBase64(networkJson(attachment.network).dump())},
                 {"ifName", kInterface},
                 {"networkName", attachment.network.name},
                 {"netns", attachment.networkNamespace},
                 {"cniArgs", std::move(args)},
                 {"capabilityArgs", attachment.capabilities},
                 {kOurs, attachment.complete ? "added" : "adding"}};
  if (!attachment.result.is_null()) object["result"] = attachment.result;
  return object.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Result<Attachment> parseAttachment(std::string_view text) {
  USERPOD_TRY(object, parseObject(text, kOwnJson));
  USERPOD_TRY(kind, textOf(object, "kind", ""));
  USERPOD_TRY(state, textOf(object, kOurs, ""));
  USERPOD_TRY(interface, textOf(object, "ifName", ""));
  if (kind != kKind || interface != kInterface || (state != "added" && state != "adding"))
    return Error(Code::ConfigInvalid, "is no network of a pod of this runtime");
  Attachment attachment;
  attachment.complete = state == "added";
  USERPOD_TRY(podId, textOf(object, "containerId", ""));
  USERPOD_TRY(space, textOf(object, "netns", ""));
  USERPOD_TRY(encoded, textOf(object, "config", ""));
  USERPOD_TRY(config, decodeBase64(encoded));
  auto network = parseNetwork(config, true, kOwnJson);
  if (!network) return std::move(network).error().wrap("\"config\"");
  if (!isPlainName(podId)) return wrongKey("", "containerId", "is no id");
  USERPOD_TRY(args, parseArgs(object));
  USERPOD_TRY(capabilities, containerOf(object, "capabilityArgs", "", Json::value_t::object));
  USERPOD_TRY(result, containerOf(object, "result", "", Json::value_t::object));
  if (!result->is_null()) {
    USERPOD_TRY(checked, parseResult(result->dump(), network->version, kOwnJson));
    attachment.result = std::move(checked);
  }
  attachment.podId = podId;
  attachment.networkNamespace = space;
  attachment.network = std::move(*network);
  attachment.args = std::move(args);
  if (capabilities->is_object()) attachment.capabilities = *capabilities;
  return attachment;
}

Result<std::unique_ptr<Cache>> Cache::open(const std::string& directory, const std::vector<NetworkConfig>& configured) {
  if (auto made = makeDirectories(directory, 0700); !made)
    return std::move(made).error().wrap("CNI needs its cache of results");
  std::unique_ptr<Cache> cache(new Cache(directory));
  for (const auto& name : namesIn(directory)) cache->take(name, configured);
  return cache;
}

void Cache::take(const std::string& name, const std::vector<NetworkConfig>& configured) {
  std::string file = directory_ + "/" + name;
  struct stat info{};
  if (::lstat(file.c_str(), &info) < 0 || !S_ISREG(info.st_mode)) return;
  auto text = readFile(file, kOwnJson.bytes);
  auto read = text ? parseAttachment(*text) : Result<Attachment>(text.error());
  if (read) {
    if (fileOf(*read) == file) attachments_[file] = std::move(*read);
    return;
  }
  // What a power cut leaves: a name and no content. Half-written ones end in ".new" and were never in use.
  std::string tail = fmt::format("-{}", kInterface);
  bool temporary = name.ends_with(".new");
  std::string_view stem = std::string_view(name).substr(0, name.size() - (temporary ? 4 : 0));
  if (!stem.ends_with(tail) || stem.size() < tail.size() + kPodIdLength + 2) return;
  stem.remove_suffix(tail.size());
  auto podId = stem.substr(stem.size() - kPodIdLength);
  stem.remove_suffix(kPodIdLength);
  if (!isHex(podId) || !stem.ends_with("-") || (text && parseObject(*text, kOwnJson)))
    return;  // whole: another runtime's
  auto network = std::find_if(configured.begin(), configured.end(),
                              [&](const auto& one) { return one.name == stem.substr(0, stem.size() - 1); });
  if (temporary || network == configured.end()) {
    if (!temporary)
      logWarning("{} is damaged and its network no longer configured: what plugins keep of it stays", file);
    ::unlink(file.c_str());
    return;
  }
  Attachment damaged;
  damaged.podId = podId;
  damaged.network = *network;
  attachments_[file] = std::move(damaged);
}

std::string Cache::fileOf(const Attachment& attachment) const {
  return fmt::format("{}/{}-{}-{}", directory_, attachment.network.name, attachment.podId, kInterface);
}

Status Cache::put(const Attachment& attachment) {
  std::string file = fileOf(attachment);
  {
    std::lock_guard lock(mutex_);
    attachments_[file] = attachment;
  }
  return writeFileAtomic(file, attachmentText(attachment), 0600);
}

Status Cache::remove(const Attachment& attachment) {
  std::string file = fileOf(attachment);
  if (::unlink(file.c_str()) < 0 && errno != ENOENT) return sysError("remove " + file);
  std::lock_guard lock(mutex_);
  attachments_.erase(file);
  return {};
}

std::vector<Attachment> Cache::ofPod(const std::string& podId) const {
  std::lock_guard lock(mutex_);
  std::vector<Attachment> found;
  for (const auto& [file, attachment] : attachments_)
    if (attachment.podId == podId) found.push_back(attachment);
  return found;
}

std::vector<Attachment> Cache::all() const {
  std::lock_guard lock(mutex_);
  std::vector<Attachment> found;
  for (const auto& [file, attachment] : attachments_) found.push_back(attachment);
  return found;
}

std::vector<std::pair<std::string, std::string>> Cache::attachedTo(const std::string& network) const {
  std::vector<std::pair<std::string, std::string>> found;
  for (const auto& name : namesIn(directory_)) {
    if (!name.starts_with(network + "-") || name.ends_with(".new")) continue;
    auto text = readFile(directory_ + "/" + name, kOwnJson.bytes);
    auto object = text ? parseObject(*text, kOwnJson) : Result<Json>(text.error());
    if (!object || memberOf(*object, "networkName") != network) continue;
    auto id = textOf(*object, "containerId", "");
    auto interface = textOf(*object, "ifName", "");
    if (id && interface) found.emplace_back(*id, *interface);
  }
  return found;
}

}  // namespace userpod::network::cni
