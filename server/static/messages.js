// All texts of the page in both languages, except the English ones that are in index.html.

const messages = {
  en: {
    sent: "as sent",
    seen: "as the model sees it, {size} × {size}",
    hidden: "This browser cannot show this kind of file.",
    asking: "Asking …",
    took: "{file} · {ms} ms · model {version}",
    uncertain: "not sure",
    explain: "Which parts led to it?",
    explaining: "Covering one part after another …",
    why: "what led to {label}",
    spoke: "Orange parts make {label} likelier, blue ones less likely. With the most important part covered, {label} falls from {from} to {to}.",
    answered: "{file}: {label}, {sure}",
    refusedFile: "{file}: {why}",
    refused: "{detail}",
    retry: "Try again",
    down: "The service does not answer. Check that it runs and that you are connected: this page tries again every two seconds.",
    failed: "The service failed with status {status}.",
    unauthorized: "This service needs a valid API key: type it at the top of this page.",
    unreadable: "The browser cannot read this: it may be a folder, or a file that no longer exists.",
    nofile: "That is not a picture file: save the picture first, then drop or choose it.",
    nofigures: "The service's figures cannot be seen here.",
    accuracy: "of {n} held-out images classified correctly",
    interval: "95% interval: {low} to {high}",
    unscored: "The card of this checkpoint has no scores: cifar-train writes them.",
    perClass: "Accuracy by class",
    confusion: "Confusion matrix",
    confusionHelp: "Rows: the true class. Columns: what the model says. Cells: number of images.",
    confusionElsewhere: "The report of cifar-train shows the confusion matrix of so many classes.",
    name: "Name and version",
    architecture: "Network",
    input: "Input",
    pixels: "{size} × {size} pixels",
    trained: "Trained on",
    trainedOn: "{n} images of {data}, in {minutes} min on {hardware}",
    calibration: "Its confidence is off by",
    calibrationHelp: "{error} on average",
  },
  zh: {
    title: "这个网络看到了什么？",
    lead: "给它一张图片：它会说出图中是它认识的哪一类，以及有多大把握。",
    key: "API 密钥",
    drop: "把图片拖到这里，或直接粘贴",
    choose: "选择图片",
    photograph: "拍照",
    samples: "或者试试这些",
    answers: "回答",
    sent: "原图",
    seen: "模型看到的 {size} × {size}",
    hidden: "此浏览器无法显示这种文件。",
    asking: "正在询问……",
    took: "{file} · {ms} 毫秒 · 模型 {version}",
    uncertain: "没有把握",
    explain: "哪些部分起了作用？",
    explaining: "正在逐处遮挡……",
    why: "起作用的部分：{label}",
    spoke: "橙色部分使“{label}”更可能，蓝色部分使它更不可能。遮住影响最大的一处，“{label}”的概率从 {from} 变为 {to}。",
    answered: "{file}：{label}，{sure}",
    refusedFile: "{file}：{why}",
    refused: "服务拒绝了它：{detail}",
    retry: "重试",
    down: "服务没有响应。请检查服务是否在运行、网络是否连通；本页面每两秒重试一次。",
    failed: "服务出错，状态码 {status}。",
    unauthorized: "此服务需要有效的 API 密钥：请在页面顶部输入。",
    unreadable: "浏览器无法读取：可能是文件夹，或文件已不存在。",
    nofile: "这不是图片文件：请先保存图片，再拖入或选择。",
    strip: "服务现状",
    requests: "请求/秒",
    images: "张/批",
    nofigures: "此处看不到服务的指标。",
    model: "模型",
    accuracy: "在 {n} 张留出的测试图片上的正确率",
    interval: "95% 置信区间：{low} 至 {high}",
    unscored: "此检查点的模型卡片里没有得分：得分由 cifar-train 写入。",
    perClass: "各类的正确率",
    confusion: "混淆矩阵",
    confusionHelp: "行：图片的真实类别。列：模型的回答。格内：图片数。",
    confusionElsewhere: "类别太多：混淆矩阵请看 cifar-train 的报告。",
    name: "名称与版本",
    architecture: "网络",
    input: "输入",
    pixels: "{size} × {size} 像素",
    trained: "训练",
    trainedOn: "{data} 的 {n} 张图片，用时 {minutes} 分钟，{hardware}",
    calibration: "置信度误差",
    calibrationHelp: "平均 {error}",
  },
};

const chinese = {
  airplane: "飞机", automobile: "汽车", bird: "鸟", cat: "猫", deer: "鹿",
  dog: "狗", frog: "蛙", horse: "马", ship: "船", truck: "卡车",
};

export const language = navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";

/** The text of that name, with the {values} filled in. */
export function t(name, values = {}) {
  return messages[language][name].replace(/\{(\w+)\}/g, (_, value) => values[value]);
}

/** The name of a class; on the Chinese page the Chinese name, where there is one, stands before it. */
export function named(label) {
  return language === "zh" && chinese[label] ? `${chinese[label]} ${label}` : label;
}

/** Translates the texts in index.html, which are English. */
export function translate() {
  if (language === "en") return;
  document.documentElement.lang = "zh-CN";
  for (const element of document.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
}

export const number = (value, digits = 0) => value.toLocaleString(language, { maximumFractionDigits: digits });

export const percent = (ratio) =>
  ratio.toLocaleString(language, { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });
