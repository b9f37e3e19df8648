document.getElementById("app")!.textContent = "Quantra-L";
