#include "daemon/cri/images.hpp"

#include <openssl/evp.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <optional>

#include "daemon/cri/fields.hpp"
#include "daemon/cri/info.hpp"

namespace userpod::cri {
namespace {

constexpr std::size_t kReferenceLimit = 4096;
constexpr std::size_t kSecretLimit = 64 * 1024;

std::optional<std::string> decodeBase64(const std::string& text) {
  if (text.size() % 4 != 0) return std::nullopt;
  std::string bytes(text.size() / 4 * 3, '\0');
  int length = EVP_DecodeBlock(reinterpret_cast<unsigned char*>(bytes.data()),
                               reinterpret_cast<const unsigned char*>(text.data()), static_cast<int>(text.size()));
  if (length < 0) return std::nullopt;
  // OpenSSL counts the padding as zero bytes.
  std::size_t padding = text.ends_with("==") ? 2 : text.ends_with("=") ? 1 : 0;
  bytes.resize(static_cast<std::size_t>(length) - padding);
  return bytes;
}

struct Basic {
  std::string username, password;
};

Result<Basic> decodeBasic(const std::string& text) {
  auto bytes = decodeBase64(text);
  std::size_t colon = bytes ? bytes->find(':') : std::string::npos;
  if (colon == std::string::npos) return invalidField("auth.auth", "is not the base64 text of user:password");
  Basic basic{bytes->substr(0, colon), bytes->substr(colon + 1)};
  // Some credential helpers pad the password with NUL bytes.
  basic.password.erase(basic.password.find_last_not_of('\0') + 1);
  return basic;
}

// Header values are made of them.
Status checkSecret(std::string_view field, const std::string& value) {
  if (value.size() > kSecretLimit) return invalidField(field, "has more than 64 KiB");
  if (value.find_first_of(std::string_view("\0\r\n", 3)) != std::string::npos)
    return invalidField(field, "has a line break or a NUL byte");
  return {};
}

// Of username, password and auth, which may say the same twice.
Result<Basic> toBasic(const v1::AuthConfig& auth) {
  Basic plain{auth.username(), auth.password()};
  if (plain.username.empty() && !plain.password.empty())
    return invalidField("auth.username", "is empty although there is a password");
  if (auth.auth().empty()) return plain;
  USERPOD_TRY(decoded, decodeBasic(auth.auth()));
  bool same = decoded.username == plain.username && (plain.password.empty() || decoded.password == plain.password);
  if (!plain.username.empty() && !same)
    return invalidField("auth.auth", "is not what username and password are; give one or the other");
  return decoded;
}

// "https://index.docker.io/v1/" and the like: the registry's host with its port.
Result<std::string> toServer(std::string_view address) {
  if (auto scheme = address.find("://"); scheme != std::string_view::npos) address.remove_prefix(scheme + 3);
  address = address.substr(0, address.find('/'));
  constexpr std::string_view kHost = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:[]";
  if (address.empty() || address.size() > 300 || address.find_first_not_of(kHost) != std::string_view::npos)
    return invalidField("auth.server_address",
                        "is not the address of a registry, such as https://registry.example:5000");
  std::string host(address);
  std::transform(host.begin(), host.end(), host.begin(), [](unsigned char c) { return std::tolower(c); });
  if (host.ends_with(":443")) host.resize(host.size() - 4);
  for (std::string_view hub : {"index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"})
    if (host == hub) return std::string("docker.io");
  return host;
}

}  // namespace

Result<std::string> toReference(std::string_view field, const v1::ImageSpec& spec) {
  std::string path = std::string(field) + ".image";
  if (spec.image().empty()) return invalidField(path, "is empty; give a name, a digest or an image id");
  USERPOD_CHECK(checkText(path, spec.image(), kReferenceLimit));
  return spec.image();
}

Result<images::Credentials> toCredentials(const v1::AuthConfig& auth) {
  for (const auto& [field, value] : {std::pair("auth.username", &auth.username()),
                                     {"auth.password", &auth.password()},
                                     {"auth.auth", &auth.auth()},
                                     {"auth.identity_token", &auth.identity_token()},
                                     {"auth.registry_token", &auth.registry_token()},
                                     {"auth.server_address", &auth.server_address()}})
    USERPOD_CHECK(checkSecret(field, *value));
  USERPOD_TRY(basic, toBasic(auth));
  images::Credentials credentials;
  // Docker keeps a name, without a password, beside an identity token: the token is what counts.
  bool token = !auth.identity_token().empty() || !auth.registry_token().empty();
  if (token && !basic.password.empty())
    return invalidField(auth.identity_token().empty() ? "auth.registry_token" : "auth.identity_token",
                        "stands beside a password; give one of them");
  if (!auth.identity_token().empty() && !auth.registry_token().empty())
    return invalidField("auth.registry_token", "stands beside an identity_token; give one of them");
  credentials.identityToken = auth.identity_token();
  credentials.registryToken = auth.registry_token();
  if (!token) {
    credentials.username = std::move(basic.username);
    credentials.password = std::move(basic.password);
  }
  if (!auth.server_address().empty()) {
    USERPOD_TRY(server, toServer(auth.server_address()));
    credentials.serverAddress = std::move(server);
  }
  return credentials;
}

void fillItem(const ImageRecord& image, const std::string& asked, v1::Image* item) {
  item->set_id(image.id);
  item->mutable_repo_tags()->Assign(image.repoTags.begin(), image.repoTags.end());
  item->mutable_repo_digests()->Assign(image.repoDigests.begin(), image.repoDigests.end());
  item->set_size(static_cast<std::uint64_t>(image.size));
  item->set_pinned(image.pinned);
  auto* spec = item->mutable_spec();
  spec->set_image(!asked.empty() ? asked : !image.repoTags.empty() ? image.repoTags.front() : image.id);
  spec->set_image_ref(image.id);
  spec->mutable_annotations()->insert(image.manifestAnnotations.begin(), image.manifestAnnotations.end());
  // "1000", "1000:1000", "nginx", "nginx:nginx". A name leaves uid absent: kubelet would take a 0 for root.
  std::string user = image.user.substr(0, image.user.find(':'));
  std::uint32_t uid = 0;
  auto [end, error] = std::from_chars(user.data(), user.data() + user.size(), uid);
  if (!user.empty() && error == std::errc() && end == user.data() + user.size())
    item->mutable_uid()->set_value(uid);
  else
    item->set_username(user);
}

std::string imageInfo(const ImageRecord& image, const std::string& config) {
  nlohmann::json info{{"labels", image.labels},
                      {"manifestDigest", image.manifestDigest},
                      {"layers", image.diffIds},
                      {"imageSpec", parseForInfo(config)}};
  return printInfo(info);
}

}  // namespace userpod::cri
